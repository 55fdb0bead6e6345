package main

import (
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/kubelogexporter/kubelogexporter/exporter"
	"github.com/kubelogexporter/kubelogexporter/exporter/nodelog"
)

// readFlags say how logs are read, by run and by export.
type readFlags struct {
	rotateAt    string
	nodeLogs    string
	kubelets    nodelog.Options
	bytesPerSec string
}

func (r *readFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&r.rotateAt, "container-log-max-size", "1Mi", "the smallest containerLogMaxSize of the cluster's kubelets, whose default is 10Mi: a log that was streamed counts as complete without further proof only below it")
	f.StringVar(&r.bytesPerSec, "read-rate", "0", "bytes of log per second to read at most, such as 50Mi; 0 is no limit. Logs that vanish within seconds, of dying pods and of runs that may be replaced, are never held up")
	f.StringVar(&r.nodeLogs, "node-logs", "off", "use the kubelets' own log files: off; recover, for what the API cannot give; prefer, wherever there are some. Needs the right to get nodes/log, which opens all of /var/log on the nodes")
	f.StringVar(&r.kubelets.CAFile, "kubelet-ca", "", "`file` with the authority that signs the kubelets' certificates (default: the cluster's)")
	f.BoolVar(&r.kubelets.InsecureSkipVerify, "kubelet-insecure-skip-verify", false, "do not check the kubelets' certificates: whoever answers at a node's address gets the exporter's token")
	f.IntVar(&r.kubelets.Port, "kubelet-port", 10250, "port of the kubelets")
	f.IntVar(&r.kubelets.MaxFiles, "container-log-max-files", 2, "the smallest containerLogMaxFiles of the cluster's kubelets, whose own default is 5: only fewer files on a node than that prove that none was removed")
	complete(cmd, "node-logs", words("off", "recover", "prefer"))
}

// apply takes flags that load has checked.
func (r *readFlags) apply(o *exporter.Options) (err error) {
	o.NodeLogs, o.Kubelets = exporter.NodeLogs(r.nodeLogs), r.kubelets
	if o.RotateAt, err = parseSize("container-log-max-size", r.rotateAt); err != nil {
		return err
	}
	o.ReadRate, err = parseSize("read-rate", r.bytesPerSec)
	return err
}

// policyFlags say when run reads logs, and how many streams a node has to serve for it.
type policyFlags struct {
	capture     string
	nodeFollows int
}

func (p *policyFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&p.capture, "capture", "final", "when to read logs: final, when a container has ended; live, from its start on, for logs that the kubelet rotates and pods that are deleted by force")
	f.IntVar(&p.nodeFollows, "follows-per-node", 32, "streams of running containers on one node; each takes one inotify instance there. Logs beyond are read every few seconds")
	complete(cmd, "capture", words("final", "live"))
}

// apply takes flags that load has checked.
func (p *policyFlags) apply(o *exporter.Options) {
	o.Capture, o.NodeFollows = exporter.Capture(p.capture), p.nodeFollows
}

// parseSize reads a quantity of bytes as Kubernetes writes it, such as 10Mi.
func parseSize(flag, value string) (int64, error) {
	q, err := resource.ParseQuantity(value)
	if err != nil || q.Sign() < 0 {
		return 0, usagef("--%s: %q is no size such as 10Mi", flag, value)
	}
	return q.Value(), nil
}
