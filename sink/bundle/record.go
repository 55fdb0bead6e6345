// Package bundle defines what lies in the archive: keys, log objects and records. FORMAT.md is the normative text.
// It never talks to Kubernetes or to storage, reads no clock and starts no goroutine.
package bundle

import (
	"encoding/json"
	"time"
)

// FormatVersion is the version that this package writes. A reader accepts every 1.x.
const FormatVersion = "1.1"

// Record is the truth about one container run: what ran, how it ended, how much of its log was saved.
// It is stored as JSON, after the log objects that it names. Field names are Kubernetes' own where
// Kubernetes has the thing.
type Record struct {
	FormatVersion string    `json:"formatVersion"`
	Cluster       string    `json:"cluster"`
	Namespace     string    `json:"namespace"`
	Pod           Pod       `json:"pod"`
	Container     Container `json:"container"`
	// State says how the run ended, or that it was still running when it was read.
	State   State   `json:"state"`
	Verdict Verdict `json:"verdict"`
	// Objects are the log objects in reading order. Empty when there is no log, or none was had.
	Objects []Object `json:"objects"`
	// Lines, RawBytes, FirstStamp and LastStamp sum up the objects.
	Lines    int64 `json:"lines"`
	RawBytes int64 `json:"rawBytes"`
	// RawSHA256 is the lower-case hex hash of the whole text: two captures of a run with the same hash
	// are the same, whatever their compression. Absent when there is no text.
	RawSHA256 string `json:"rawSHA256,omitempty"`
	// RawSHA256State is, in a snapshot, the state of that hash, so that a later capture can go on where
	// this one ends: what Go's crypto/sha256 marshals. Nobody else needs it.
	RawSHA256State []byte     `json:"rawSHA256State,omitempty"`
	FirstStamp     *time.Time `json:"firstStamp,omitempty"`
	LastStamp      *time.Time `json:"lastStamp,omitempty"`
	// LastLines are the last 20 lines at most, each cut to 1,024 bytes of valid UTF-8, for people who click a record in a console.
	LastLines []string `json:"lastLines,omitempty"`
	Capture   Capture  `json:"capture"`
	// PodObject is the pod as last seen: without managedFields and kubectl's last-applied-configuration, with literal
	// env values masked and termination messages redacted as the log is.
	PodObject json.RawMessage `json:"podObject,omitempty"`
	// Events are for the pod's events. No writer fills it yet.
	Events []json.RawMessage `json:"events,omitempty"`
	// Omitted names the fields that Encode left out to keep the record within MaxRecordSize.
	Omitted []string `json:"omitted,omitempty"`
	// Digest is the lower-case hex SHA-256 of the record's bytes up to the line that holds it. Encode sets
	// it and Decode checks it. Absent from records of format 1.0.
	Digest string `json:"digest,omitempty"`
}

// Pod names the pod that the container belonged to.
type Pod struct {
	Name              string            `json:"name"`
	UID               string            `json:"uid"`
	NodeName          string            `json:"nodeName,omitempty"`
	Phase             string            `json:"phase,omitempty"`
	Reason            string            `json:"reason,omitempty"`
	Message           string            `json:"message,omitempty"`
	Labels            map[string]string `json:"labels,omitempty"`
	Owners            []Owner           `json:"owners,omitempty"` // its ownerReferences, the controller first
	DeletionTimestamp *time.Time        `json:"deletionTimestamp,omitempty"`
}

// Owner is one of the owners that a pod names; what owns these is not followed.
type Owner struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Name       string `json:"name"`
	UID        string `json:"uid"`
}

// ContainerType tells which list of the pod's spec a container comes from.
type ContainerType string

// The container types. A sidecar is an init container with restartPolicy Always.
const (
	TypeContainer ContainerType = "container"
	TypeInit      ContainerType = "initContainer"
	TypeSidecar   ContainerType = "sidecar"
	TypeEphemeral ContainerType = "ephemeralContainer"
)

// Container names the container run. (Pod.UID, Name, ContainerID) is its identity; RestartCount is a label.
type Container struct {
	Name         string        `json:"name"`
	Type         ContainerType `json:"type"`
	Image        string        `json:"image,omitempty"`
	ImageID      string        `json:"imageID,omitempty"`
	ContainerID  string        `json:"containerID,omitempty"` // with its scheme, such as containerd://
	RestartCount int32         `json:"restartCount"`
}

// State is the life of the run. Exactly one of Running and a known or unknown end applies.
type State struct {
	// Running is true for a snapshot of a run that had not ended when it was read.
	Running    bool       `json:"running,omitempty"`
	StartedAt  *time.Time `json:"startedAt,omitempty"`
	FinishedAt *time.Time `json:"finishedAt,omitempty"`
	// FinishedAtEstimated is true when the kubelet never reported the end, and FinishedAt is when it was noticed, or
	// when it reported one without a time, and FinishedAt is the last stamp held, or else a time before the end.
	FinishedAtEstimated bool   `json:"finishedAtEstimated,omitempty"`
	ExitCode            *int32 `json:"exitCode,omitempty"` // absent when it was never reported
	Signal              int32  `json:"signal,omitempty"`
	Reason              string `json:"reason,omitempty"`
	Message             string `json:"message,omitempty"` // the termination message
}

// Verdict says, for head, middle and tail of the log, whether all bytes are there.
type Verdict struct {
	// Complete is true only if head, middle and tail are all proven.
	Complete bool `json:"complete"`
	Head     Part `json:"head"`
	Middle   Part `json:"middle"`
	Tail     Part `json:"tail"`
}

// PartState is what is known about one part of a log.
type PartState string

// The part states.
const (
	Proven   PartState = "proven"   // evidence says that nothing is missing
	Unproven PartState = "unproven" // nothing speaks against it, the evidence could not be had
	Lost     PartState = "lost"     // bytes are missing, or must be taken as missing
)

// Part is the verdict on one part of a log.
type Part struct {
	State PartState `json:"state"`
	// Evidence names the checks that were made and what they showed, for people.
	Evidence []string `json:"evidence,omitempty"`
	// Cause is set unless State is Proven.
	Cause Cause `json:"cause,omitempty"`
	// After and Before bound what is missing, where stamps on either side are held.
	After  *time.Time `json:"after,omitempty"`
	Before *time.Time `json:"before,omitempty"`
}

// Cause names why a part of a log is lost or unproven. Causes are a closed set, counted by metrics and verify.
type Cause string

// The causes.
const (
	CauseNone Cause = ""
	// CauseReplacedBeforeRead: the container restarted again before its log was read.
	CauseReplacedBeforeRead Cause = "replaced_before_read"
	// CauseUnseenRuns: restarts happened between two looks; their container IDs were never seen.
	CauseUnseenRuns Cause = "unseen_runs"
	// CauseDeletedBeforeRead: the pod was deleted before its log was read.
	CauseDeletedBeforeRead Cause = "deleted_before_read"
	// CauseNodeLost: the node went away with the log.
	CauseNodeLost Cause = "node_lost"
	// CauseVanishedWhileDown: the pod vanished while no exporter was watching.
	CauseVanishedWhileDown Cause = "vanished_while_down"
	// CauseRotated: the kubelet rotated the log and the API serves the newest file only.
	CauseRotated Cause = "rotated"
	// CauseNotWitnessed: the start of the log was not seen while the container ran, so a rotation cannot be excluded.
	CauseNotWitnessed Cause = "not_witnessed"
	// CauseTailUnproven: the closing checks could not run.
	CauseTailUnproven Cause = "tail_unproven"
	// CauseJoinFailed: two reads of the log do not overlap or contradict each other, or a segment that was stored before is
	// no longer there.
	CauseJoinFailed Cause = "join_failed"
	// CauseKubeletError: the kubelet answered with an error in place of the log, to the end.
	CauseKubeletError Cause = "kubelet_error"
	// CauseSpoolFull: the exporter had no room for the log while it could be had, or the record none to name more objects.
	CauseSpoolFull Cause = "spool_full"
	// CauseSpoolDamaged: the log was captured, and its bytes were damaged on the exporter's disk before they were stored.
	CauseSpoolDamaged Cause = "spool_damaged"
	// CauseStillRunning: the run had not ended when it was read.
	CauseStillRunning Cause = "still_running"
)

// Object describes one stored log object.
type Object struct {
	// Key is relative to the bucket's prefix.
	Key string `json:"key"`
	// RawBytes and StoredBytes are sizes before and after compression.
	RawBytes    int64 `json:"rawBytes"`
	StoredBytes int64 `json:"storedBytes"`
	// RawSHA256 and StoredSHA256 are lower-case hex.
	RawSHA256    string `json:"rawSHA256"`
	StoredSHA256 string `json:"storedSHA256"`
	// StoredMD5 is lower-case hex. Most stores tell an object's MD5 as its ETag, so that it can be compared
	// without reading the object. Absent from records of format 1.0.
	StoredMD5 string `json:"storedMD5,omitempty"`
	// Lines counts the lines that end in this object; at the end of the log a last line without a
	// newline counts too.
	Lines int64 `json:"lines"`
	// FirstStamp and LastStamp are those of the first and the last line that begins here and has one.
	FirstStamp *time.Time `json:"firstStamp,omitempty"`
	LastStamp  *time.Time `json:"lastStamp,omitempty"`
	// Frames lists the frames of a log above FrameSize; empty for a single frame.
	Frames []Frame `json:"frames,omitempty"`
}

// Frame is an independently readable part of a log object. It begins and ends at a line end, except
// where one line is longer than a frame.
type Frame struct {
	Offset      int64      `json:"offset"`      // where it begins in the object
	StoredBytes int64      `json:"storedBytes"` // its length there
	RawOffset   int64      `json:"rawOffset"`   // where it begins in the text
	RawBytes    int64      `json:"rawBytes"`
	FirstLine   int64      `json:"firstLine"` // number of its first line in the object, from 0
	FirstStamp  *time.Time `json:"firstStamp,omitempty"`
}

// Capture says how the log was had.
type Capture struct {
	ExporterVersion string `json:"exporterVersion"`
	Policy          string `json:"policy"` // final, live or sweep; export for a one-off
	// Reads are the requests that were made, in order.
	Reads []Read `json:"reads,omitempty"`
	// StdoutLines and StderrLines count the lines of each stream. They are known only if the node's own
	// files were read: the API mixes the streams.
	StdoutLines *int64 `json:"stdoutLines,omitempty"`
	StderrLines *int64 `json:"stderrLines,omitempty"`
	// Redaction says that secrets were taken out of the log; nil if nothing was looked for.
	Redaction *Redaction `json:"redaction,omitempty"`
	// KubeletErrors are the error texts that the kubelet sent inside log bodies. They are not part of the log.
	KubeletErrors []string `json:"kubeletErrors,omitempty"`
}

// Redaction says what was looked for in the log, and how often it was found and replaced.
type Redaction struct {
	Rules   []string         `json:"rules"`             // by name; those that were looked for in all of the log
	Matches map[string]int64 `json:"matches,omitempty"` // by rule, in any part of it; those that found nothing are left out
}

// Read is one request for the log.
type Read struct {
	Time     time.Time `json:"time"`
	Method   string    `json:"method"` // follow, get, previous, poll, closing, node, recount, spool
	RawBytes int64     `json:"rawBytes"`
	Result   string    `json:"result"` // ok, or the error
}
