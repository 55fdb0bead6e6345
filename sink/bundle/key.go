package bundle

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

const (
	dateLayout = time.DateOnly
	// snapshotLayout has no colon: keys become file names, and some file systems forbid it. All nine
	// digits are kept, so that keys of one run sort by time.
	snapshotLayout = "at20060102T150405.000000000Z"
	// noID stands in a key for the container ID of a run whose ID was never seen.
	noID = "none"
	// maxSegment bounds the number of log objects of one run. At 64 MiB each this is 610 TiB.
	maxSegment = 9_999_999
)

// RunKey says where in the archive the record and the log of one run lie. It is comparable; equal
// runs have equal keys when they come from KeyOf or ParseKey.
type RunKey struct {
	Cluster   string // as CheckCluster allows it
	Namespace string
	Date      string // YYYY-MM-DD, the UTC day on which the run ended or the snapshot was taken
	Pod       string
	UID       string // of the pod
	Container string
	Restart   int32
	ID12      string // as ID12 makes it
	// Snapshot is set for a run that had not ended when it was read: the last stamp held, in UTC.
	Snapshot time.Time
}

// Kind tells what lies under a key.
type Kind int

// The kinds.
const (
	KindRecord Kind = iota + 1
	KindLog
)

// KeyOf returns where a record belongs. The date is the UTC day of FinishedAt. A snapshot takes its
// date and time from the last stamp held or, when it is empty, from StartedAt. Nothing in a key
// depends on the time of upload: every attempt and every replica arrives at the same key, unless nobody was told of
// the end and they noticed it on different days.
func KeyOf(r *Record) (RunKey, error) {
	k := RunKey{
		Cluster:   r.Cluster,
		Namespace: r.Namespace,
		Pod:       r.Pod.Name,
		UID:       r.Pod.UID,
		Container: r.Container.Name,
		Restart:   r.Container.RestartCount,
		ID12:      ID12(r.Container.ContainerID),
	}
	day := r.State.FinishedAt
	if r.State.Running {
		day = r.LastStamp
		if day == nil {
			day = r.State.StartedAt
		}
	}
	if day == nil {
		return RunKey{}, errors.New("name run: the record has no time of its end, and no stamp or start for a snapshot")
	}
	t := day.UTC().Round(0)
	k.Date = t.Format(dateLayout)
	if r.State.Running {
		k.Snapshot = t
	}
	if err := k.Check(); err != nil {
		return RunKey{}, fmt.Errorf("name run: %w", err)
	}
	return k, nil
}

// ID12 shortens a container ID to what stands in a key: its first 12 hex digits, without the scheme.
// An empty ID gives "none". An ID that is not hex gives the first 12 hex digits of its SHA-256.
func ID12(containerID string) string {
	id := containerID
	if _, rest, ok := strings.Cut(id, "://"); ok {
		id = rest
	}
	if id == "" {
		return noID
	}
	if len(id) >= 12 && only(id, lowerHex) {
		return id[:12]
	}
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:6])
}

// Record returns the key of the run's record.
func (k RunKey) Record() string { return k.Prefix() + "_" + k.base() + ".json" }

// Log returns the key of a log object of the run. Segment 0 means that it is the only one;
// several are counted from 1.
func (k RunKey) Log(segment int, c Compression) string {
	s := k.Prefix() + k.base()
	if segment > 0 {
		s += fmt.Sprintf(".%04d", segment)
	}
	return s + ".log." + c.ext()
}

// Logs returns the keys of a run's n log objects in reading order.
func (k RunKey) Logs(n int, c Compression) []string {
	if n == 1 {
		return []string{k.Log(0, c)}
	}
	keys := make([]string, 0, n)
	for i := range n {
		keys = append(keys, k.Log(i+1, c))
	}
	return keys
}

// Prefix returns the folder of the run's pod, ending with a slash.
func (k RunKey) Prefix() string {
	return DayPrefix(k.Cluster, k.Namespace, k.Date) + k.Pod + "/" + k.UID + "/"
}

// String returns the key of the run's record.
func (k RunKey) String() string { return k.Record() }

// Final returns the key without its snapshot time: two keys with the same Final belong to one run,
// except that the date of a snapshot may be an earlier one.
func (k RunKey) Final() RunKey {
	k.Snapshot = time.Time{}
	return k
}

// owns says whether a log object under the key o can be one of the run of the record under k: the run
// is the same, but a segment may have been stored on another day, while the run went on.
func (k RunKey) owns(o RunKey) bool {
	if o.Snapshot.IsZero() {
		k.Snapshot, k.Date = o.Snapshot, o.Date
	}
	return k == o
}

func (k RunKey) base() string {
	s := k.Container + "." + strconv.Itoa(int(k.Restart)) + "." + k.ID12
	if !k.Snapshot.IsZero() {
		s += "." + k.Snapshot.UTC().Format(snapshotLayout)
	}
	return s
}

// ClusterPrefix returns the folder of a cluster.
func ClusterPrefix(cluster string) string { return "cluster=" + cluster + "/" }

// NamespacePrefix returns the folder of a namespace.
func NamespacePrefix(cluster, namespace string) string {
	return ClusterPrefix(cluster) + "namespace=" + namespace + "/"
}

// DayPrefix returns the folder of a namespace's day. The date is YYYY-MM-DD, in UTC.
func DayPrefix(cluster, namespace, date string) string {
	return NamespacePrefix(cluster, namespace) + "date=" + date + "/"
}

// PodPrefix returns the folder of all pods that had one name on a day.
func PodPrefix(cluster, namespace, date, pod string) string {
	return DayPrefix(cluster, namespace, date) + pod + "/"
}

// ParseKey takes a key of this archive apart. It accepts exactly the keys that RunKey makes: what it
// returns makes the same key again. The segment is 0 for a record and for the only log object.
func ParseKey(key string) (k RunKey, kind Kind, segment int, c Compression, err error) {
	k, kind, segment, c, err = parseKey(key)
	if err == nil {
		err = k.Check()
	}
	if err == nil {
		made := k.Record()
		if kind == KindLog {
			made = k.Log(segment, c)
		}
		if made != key {
			err = fmt.Errorf("the key of this run would be %q", made)
		}
	}
	if err != nil {
		return RunKey{}, 0, 0, 0, fmt.Errorf("parse key %q: %w", key, err)
	}
	return k, kind, segment, c, nil
}

var errNotOurs = errors.New("not a key of a record or a log")

func parseKey(key string) (k RunKey, kind Kind, segment int, c Compression, err error) {
	parts := strings.Split(key, "/")
	if len(parts) != 6 {
		return k, 0, 0, 0, errNotOurs
	}
	var ok1, ok2, ok3 bool
	k.Cluster, ok1 = strings.CutPrefix(parts[0], "cluster=")
	k.Namespace, ok2 = strings.CutPrefix(parts[1], "namespace=")
	k.Date, ok3 = strings.CutPrefix(parts[2], "date=")
	if !ok1 || !ok2 || !ok3 {
		return k, 0, 0, 0, errNotOurs
	}
	k.Pod, k.UID = parts[3], parts[4]
	name, isRecord := strings.CutPrefix(parts[5], "_")
	if isRecord {
		kind = KindRecord
		name, ok1 = strings.CutSuffix(name, ".json")
	} else {
		kind = KindLog
		if name, ok1 = strings.CutSuffix(name, ".log.zst"); !ok1 {
			c = Gzip
			name, ok1 = strings.CutSuffix(name, ".log.gz")
		}
	}
	if !ok1 {
		return k, 0, 0, 0, errNotOurs
	}
	segment, err = k.parseBase(name, kind)
	return k, kind, segment, c, err
}

// parseBase reads <container>.<restart>.<id12>[.at<time>][.<segment>]. No part holds a dot but the
// time, which always holds one.
func (k *RunKey) parseBase(name string, kind Kind) (segment int, err error) {
	parts := strings.Split(name, ".")
	if len(parts) < 3 {
		return 0, errNotOurs
	}
	restart, err := strconv.ParseInt(parts[1], 10, 32)
	if err != nil {
		return 0, errNotOurs
	}
	k.Container, k.Restart, k.ID12 = parts[0], int32(restart), parts[2]
	parts = parts[3:]
	if len(parts) >= 2 && strings.HasPrefix(parts[0], "at") {
		if k.Snapshot, err = time.Parse(snapshotLayout, parts[0]+"."+parts[1]); err != nil {
			return 0, errNotOurs
		}
		parts = parts[2:]
	}
	switch {
	case len(parts) == 0:
		return 0, nil
	case len(parts) > 1 || kind != KindLog:
		return 0, errNotOurs
	}
	segment, err = strconv.Atoi(parts[0])
	if err != nil || segment < 1 || segment > maxSegment {
		return 0, errNotOurs
	}
	return segment, nil
}

// Check reports every part of the key that does not keep to its form. A key that passes cannot leave
// its prefix, and no part of it is longer than 255 bytes, the limit of MinIO and of file systems.
func (k RunKey) Check() error {
	var errs []error
	bad := func(ok bool, what, value string) {
		if !ok {
			errs = append(errs, fmt.Errorf("%s %q is not valid", what, value))
		}
	}
	bad(CheckCluster(k.Cluster) == nil, "cluster", k.Cluster)
	bad(isLabel(k.Namespace), "namespace", k.Namespace)
	bad(isDate(k.Date), "date", k.Date)
	bad(isSubdomain(k.Pod, 253), "pod", k.Pod)
	bad(IsUID(k.UID), "pod uid", k.UID)
	bad(isLabel(k.Container), "container", k.Container)
	bad(k.Restart >= 0, "restart count", strconv.Itoa(int(k.Restart)))
	bad(k.ID12 == noID || len(k.ID12) == 12 && only(k.ID12, lowerHex), "container id", k.ID12)
	bad(k.Snapshot.IsZero() || k.Snapshot.UTC().Format(dateLayout) == k.Date, "snapshot of another day", k.Snapshot.String())
	return errors.Join(errs...)
}

// CheckCluster says whether a name can stand for a cluster: 1 to 63 lower-case letters, digits, "-"
// and ".", with a letter or digit at both ends of each dotted part (RFC 1123, as Kubernetes names).
func CheckCluster(name string) error {
	if !isSubdomain(name, 63) {
		return fmt.Errorf("check cluster name: %q is not made of 1 to 63 lower-case letters, digits, \"-\" and \".\", "+
			"with a letter or digit at both ends of each dotted part", name)
	}
	return nil
}

func isDate(s string) bool {
	t, err := time.Parse(dateLayout, s)
	// Years outside of these come from broken clocks and zero values, and would not sort.
	return err == nil && t.Year() >= 1970 && t.Year() <= 9999
}

// IsUID says whether a key can hold a pod's UID. The rule is wide: the API server makes UUIDs, the kubelet hex hashes,
// and a static pod's manifest may say what it likes.
func IsUID(s string) bool {
	return len(s) >= 1 && len(s) <= 128 && alphanumeric(s[0]) &&
		only(s, func(c byte) bool { return alphanumeric(c) || c == '-' || c == '_' || c == '.' })
}

func isSubdomain(s string, limit int) bool {
	if len(s) > limit {
		return false
	}
	for part := range strings.SplitSeq(s, ".") {
		if !isLabelOf(part, limit) {
			return false
		}
	}
	return true
}

func isLabel(s string) bool { return isLabelOf(s, 63) }

func isLabelOf(s string, limit int) bool {
	return len(s) >= 1 && len(s) <= limit && lowerAlphanumeric(s[0]) && lowerAlphanumeric(s[len(s)-1]) &&
		only(s, func(c byte) bool { return lowerAlphanumeric(c) || c == '-' })
}

func only(s string, ok func(byte) bool) bool {
	for i := range len(s) {
		if !ok(s[i]) {
			return false
		}
	}
	return true
}

func lowerHex(c byte) bool          { return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' }
func lowerAlphanumeric(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' }
func alphanumeric(c byte) bool      { return lowerAlphanumeric(c) || c >= 'A' && c <= 'Z' }
