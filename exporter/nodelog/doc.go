// Package nodelog reads a container run's log files through the kubelet's own file server.
// It never asks the kubelet for more than files: the right it needs is get nodes/log, and nothing is
// read that is not of the run that was named.
//
// What pods/log cannot give is there: files that were rotated, and files of pods that the API server
// has forgotten, for as long as the kubelet keeps them. /logs/ is http.FileServer over /var/log
// (k8s.io/kubernetes/pkg/kubelet/kubelet.go), GET only, and a run's files are
//
//	<N>.log                      written to by the runtime, N the restart count
//	<N>.log.20060102-150405      the newest rotated one; the name is the time in the node's zone
//	<N>.log.20060102-150405.gz   older ones
//	….tmp                        being compressed
//
// (pkg/kubelet/logs/container_log_manager.go). These names move while they are read, so all files
// are opened before any is read: the kubelet's open descriptors keep what was opened, whatever
// happens to the names. A second listing after the opening shows whether the names meant what the
// first one said.
package nodelog
