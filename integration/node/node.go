// Package node runs a real single-node Kubernetes cluster on this machine:
// etcd, the control plane, containerd and a kubelet, built from their Go
// modules. It never leaves anything running, mounted or routed after Down,
// and it never ends a process that it did not start.
//
// There is one node per machine. Whoever calls Up first creates it, everybody
// after that shares it, in this program or another; it outlives the program
// that created it until somebody calls Down. Test binaries of several packages
// run at once, so Down waits for all programs that use the node.
//
// Addresses are fixed, see [IP] and [APIServer]. A pod reaches the machine it
// runs on (an S3 server, for example, also one published by Docker) at [IP].
package node

import (
	"context"
	"errors"
	"io"
	"time"
)

const (
	// Name is the name of the only Node object.
	Name = "kubelogexporter-node"

	// IP is the address of the machine as the cluster knows it: the kubelet
	// listens on its port 10250, pods have it as their gateway and reach every
	// server of the host that listens on all addresses at it. Pods get their
	// own addresses from the same /16, enough for any number of them.
	IP = "10.97.0.1"

	// APIServer is the address of the API server. It is also the ClusterIP of
	// the Service kubernetes.default: the API server listens on it directly,
	// so that pods reach it without a kube-proxy.
	APIServer = "https://10.96.0.1:443"

	serviceIP = "10.96.0.1"

	// Pause is the image of every pod's sandbox. It may also be used for a
	// container that does nothing.
	Pause = "kubelogexporter.test/pause:1"

	// Busybox is an image with a shell and the usual tools in /bin.
	Busybox = "kubelogexporter.test/busybox:1"
)

// ErrNotUp says that there is no node, or none that works.
var ErrNotUp = errors.New("the node is not up")

// Options are what a caller wants of the node. An empty field accepts what
// the running node has; a field that differs from it makes Up start anew.
type Options struct {
	// Log receives progress, one line each. Nil discards it.
	Log io.Writer `json:"-"`

	// ContainerLogMaxSize is the size at which the kubelet rotates a
	// container's log, a quantity like "100Ki"; 10Mi, the kubelet's default,
	// when empty. The kubelet looks every 10 seconds.
	ContainerLogMaxSize string

	// ContainerLogMaxFiles is how many files of one container's log the
	// kubelet keeps, the live one included; 5, its default, when zero.
	ContainerLogMaxFiles int
}

// Node is a running node.
type Node struct {
	// Kubeconfig is the path of a file with the rights of cluster-admin.
	Kubeconfig string
	// Kubectl is the path of a kubectl of the cluster's own version.
	Kubectl string
	// CA is the path of the certificate that signed those of the API server
	// and of the kubelet.
	CA string
	// Options are those in effect, defaults filled in, without Log.
	Options Options
	// Logs is the folder with the components' own logs.
	Logs string
	// StaticPods is the folder with the manifests of static pods.
	StaticPods string

	binaries string
	release  func() error
}

// Close says that the caller does not use the node any more, so that others
// may stop it. The node stays up. A program that ends need not call it.
func (n *Node) Close() error {
	if n.release == nil {
		return nil
	}
	err := n.release()
	n.release = nil
	return err
}

// Restart kills the kubelet, containerd or kube-apiserver, leaves the node without it for a while, and starts it
// again. It returns when that is ready. The containers run on meanwhile.
func (n *Node) Restart(ctx context.Context, component string, away time.Duration) error {
	if err := supported(); err != nil {
		return err
	}
	return n.restart(ctx, component, away)
}

// Component is one process of the node.
type Component struct {
	Name string
	PID  int
	// Err says why it is not healthy; nil when it is.
	Err error
}

// Up returns the running node, or starts one and returns it when pods can run:
// the Node is Ready, the default ServiceAccount exists, the images [Pause] and
// [Busybox] are loaded. It first installs Debian packages and builds the
// components if they are missing; the first build takes minutes. What is left
// of a node that died is removed first. When Up fails, or ctx is cancelled,
// nothing is left. It needs Linux and root.
func Up(ctx context.Context, o Options) (*Node, error) {
	if err := supported(); err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	return up(ctx, o)
}

// Down stops the node and removes all traces of it, whatever state it is in;
// the binaries stay in the cache. It waits for the programs that use a healthy
// node: a program that called Up itself calls [Node.Close] first. Without a
// node it does nothing.
func Down(ctx context.Context, log io.Writer) error {
	if err := supported(); err != nil {
		return err
	}
	if log == nil {
		log = io.Discard
	}
	return down(ctx, log)
}

// Open returns the running node. Its error wraps [ErrNotUp] when there is none;
// it does not check the node's health, nor does it keep Down from stopping it.
func Open() (*Node, error) {
	if err := supported(); err != nil {
		return nil, err
	}
	return open()
}

// Status reports on every component, and on the Node object last. Its error
// wraps [ErrNotUp] unless all of them are healthy.
func Status(ctx context.Context) ([]Component, error) {
	if err := supported(); err != nil {
		return nil, err
	}
	return status(ctx)
}
