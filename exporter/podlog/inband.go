package podlog

import "strings"

// Text is what an error text inside a log body means for the run that is being read.
type Text string

// The kinds of in-band error texts.
const (
	// TextNone: the body ended without an error text.
	TextNone Text = ""
	// TextGone: the runtime no longer knows the container. After the last bytes of a deleted pod
	// this is the normal end; in place of a log it says that the log is lost to the API.
	TextGone Text = "gone"
	// TextRetry: the kubelet could not read on just now; another request may succeed.
	TextRetry Text = "retry"
)

// inBandTexts are the beginnings of the error texts that the kubelet appends to a log body after it
// has answered 200: it writes them without a stamp and without a newline
// (k8s.io/kubernetes/pkg/kubelet/server/server.go getContainerLogs; kuberuntime_container.go
// GetContainerLogs; k8s.io/cri-client/pkg/logs ReadLogs and its helpers).
var inBandTexts = [...]struct { //nolint:gochecknoglobals // a constant table
	prefix string
	kind   Text
}{
	{"unable to retrieve container logs for ", TextGone},
	{"rpc error: code = NotFound ", TextGone},
	{"rpc error: code = ", TextRetry},
	{"container status is nil", TextRetry},
	{"failed to try resolving symlinks in path ", TextRetry}, // between the two steps of a rotation
	{"failed to open log file ", TextRetry},
	{"failed to tail ", TextRetry},
	{"failed to seek ", TextRetry},
	{"failed to read log file ", TextRetry},
	{"failed to reset seek in log file ", TextRetry},
	{"failed to create fsnotify watcher: ", TextRetry}, // fs.inotify.max_user_instances used up on the node
	{"failed to watch directory ", TextRetry},
	{"failed to watch file ", TextRetry},
	{"failed to get parse function: ", TextRetry},
	{"failed with err ", TextRetry},
	{"context canceled", TextRetry},
	{"context cancelled", TextRetry},
	{"context deadline exceeded", TextRetry},
	{"unexpected stream type ", TextRetry},
	{"fsnotify: queue or buffer overflow", TextRetry},
}

// classify tells what an unstamped, unterminated last piece of a body is. A piece that matches no
// known text is not claimed to be an error: it stays log.
func classify(piece string) Text {
	for _, t := range inBandTexts {
		if strings.HasPrefix(piece, t.prefix) {
			return t.kind
		}
	}
	return TextNone
}

// Names says whether a text of the kubelet's holds a container's ID, with or without its scheme.
func Names(text, containerID string) bool {
	id := bareID(containerID)
	return len(id) >= 12 && strings.Contains(text, id)
}

// bareID is a container ID without its scheme.
func bareID(containerID string) string {
	if _, id, ok := strings.Cut(containerID, "://"); ok {
		return id
	}
	return containerID
}

// gluedText finds an error text at the end of an unterminated log line. Only texts that hold the
// container's own ID are taken: a program does not know its ID and does not end its output with the
// kubelet's sentence about it, so nothing that it wrote is cut. It returns where the text begins.
func gluedText(tail, containerID string) (start int, kind Text) {
	if !Names(tail, containerID) {
		return 0, TextNone
	}
	id := bareID(containerID)
	for _, begin := range [...]string{"unable to retrieve container logs for ", "rpc error: code = NotFound "} {
		if i := strings.LastIndex(tail, begin); i >= 0 && strings.Contains(tail[i:], id) {
			return i, TextGone
		}
	}
	return 0, TextNone
}
