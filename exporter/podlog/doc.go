// Package podlog reads one container run's log over HTTP and judges how much of it was had.
// It never takes a status code or a clean end of a body as proof: the kubelet sends errors as log
// text with status 200, and every broken connection behind the API server looks like a clean end.
package podlog
