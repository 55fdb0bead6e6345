// Package integration proves the promises on a real Kubernetes node and a real object store.
// It holds tests only; they run with KUBELOGEXPORTER_INTEGRATION=1, as "make test" sets it.
package integration
