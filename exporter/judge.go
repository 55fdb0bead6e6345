package exporter

import (
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

const (
	// nearStart is how long after startedAt, which has whole seconds, a line counts as written right
	// after the start.
	nearStart = 2 * time.Second
	// burst is more text in a log's first second than anybody writes who does not write at full speed.
	// Who does may have had his first lines rotated away within nearStart.
	burst = 1 << 20
)

// judge says for head, middle and tail what is proven. It errs on the side of doubt.
func (c *capture) judge(m moment) bundle.Verdict {
	v := bundle.Verdict{}
	switch {
	case !c.had():
		part := bundle.Part{State: bundle.Lost, Cause: c.lostCause(m)}
		v.Head, v.Middle, v.Tail = part, part, part
	default:
		v.Head, v.Middle, v.Tail = c.judgeHead(m), c.judgeMiddle(), c.judgeTail(m)
		switch empty := c.log.Bytes() == 0 && !c.resumed; {
		case empty && v.Head.State != bundle.Proven:
			v.Middle, v.Tail = v.Head, v.Head // what the kubelet rotated away right before the end, or may have, was all of it
		case empty && v.Tail.State == bundle.Unproven && !c.running:
			v.Head, v.Middle = v.Tail, v.Tail // what came before the next answer may have been cut
		}
	}
	v.Complete = v.Head.State == bundle.Proven && v.Middle.State == bundle.Proven && v.Tail.State == bundle.Proven
	return v
}

func (c *capture) lostCause(m moment) bundle.Cause {
	vanished := apierrors.IsNotFound(c.podError()) || errors.Is(c.podError(), errOtherPod) // and the watch lags behind
	switch {
	case c.run.unseen:
		return bundle.CauseUnseenRuns
	case c.noRoom:
		return bundle.CauseSpoolFull
	case m.podGone && m.remembered:
		return bundle.CauseVanishedWhileDown
	case m.podGone && c.nodeAway:
		return bundle.CauseNodeLost
	case m.podGone, m.dying, m.evicted(), vanished:
		return bundle.CauseDeletedBeforeRead
	case m.slot != slotCurrent, c.replaced:
		return bundle.CauseReplacedBeforeRead
	}
	return bundle.CauseKubeletError
}

// judgeHead looks for evidence that the log was read from its first line on.
func (c *capture) judgeHead(m moment) bundle.Part {
	first, burst := c.out.beginning()
	return c.judgeHeadOf(m, beginning{first: first, burst: burst, empty: c.log.Bytes() == 0 && !c.resumed})
}

// beginning is what is known of a log's first second.
type beginning struct {
	first time.Time // stamp
	burst int64     // bytes from then on
	empty bool
}

// judgeHeadOf may be called beside a stream.
func (c *capture) judgeHeadOf(m moment, b beginning) bundle.Part {
	first := b.first
	witness, seenEmpty := c.run.witnessedHead()
	if m.successorMayBegin(witness, first) {
		witness, seenEmpty = time.Time{}, time.Time{} // the probe was answered with the log of the run after this one
	}
	proven := func(evidence string) bundle.Part {
		return bundle.Part{State: bundle.Proven, Evidence: []string{evidence}}
	}
	missed := !witness.IsZero() && !witness.Equal(first)
	missed = missed && !(c.node != nil && c.log.Found()) // its files may begin before what the API served at that time
	switch {
	case c.node != nil && c.node.Head && !missed:
		return bundle.Part{State: bundle.Proven, Evidence: c.node.Evidence}
	case c.earlier != nil && c.earlier.Verdict.Head.Cause != bundle.CauseStillRunning:
		return c.earlier.Verdict.Head
	case missed:
		return bundle.Part{
			State: bundle.Lost, Cause: bundle.CauseRotated, After: utc(witness), Before: utc(first),
			Evidence: []string{"the first line seen while the container ran is no longer served"},
		}
	case b.empty && c.run.silent() && (c.run.emptyUntil(endOf(m)) || lived(c.run, m) < nearStart):
		return proven("the kubelet served an empty log, and it was empty from the start")
	case !first.IsZero() && first.Equal(c.begun) && c.noFileBefore(b.burst, 0):
		return proven("a stream was opened when the log was empty yet, and its first line is the first one held")
	case !seenEmpty.IsZero() && c.beginsAfter(seenEmpty, witness, first) && c.noFileBefore(b.burst, first.Sub(seenEmpty)):
		return proven("the log was seen empty right after the start, and the first line after that is the first one held")
	case !first.IsZero() && !first.Before(c.run.startedAt.Add(-time.Second)) && first.Sub(c.run.startedAt) < nearStart && c.noFileBefore(b.burst, nearStart):
		return proven("the first line was written right after the start, and not in a burst that could have been rotated")
	}
	return bundle.Part{
		State: bundle.Unproven, Cause: bundle.CauseNotWitnessed, Before: utc(first),
		Evidence: []string{"the log was first seen too late to exclude a rotation before it"},
	}
}

// beginsAfter says whether the first line held is the one that came after the log was seen empty: it was seen then, or the
// run ended before the next look, and too soon to fill a file.
func (c *capture) beginsAfter(empty, witness, first time.Time) bool {
	if !witness.IsZero() {
		return witness.Equal(first)
	}
	return !first.Before(empty) && first.Sub(empty) < c.run.tracker.fillsAFile
}

// noFileBefore says whether a container that writes at the speed at which its log begins, in bytes per second, takes at
// least twice as long as that to fill a file. Who had filled one before, and so has lost it, wrote faster;
// only of one that fell silent right after that, nothing is left to be known by.
func (c *capture) noFileBefore(speed int64, silent time.Duration) bool {
	return speed < burst && 2*float64(speed)*max(silent, time.Second).Seconds() < float64(c.e.rotateAt)
}

// judgeMiddle takes streams for what they are: at a rotation the kubelet goes on with the new file
// without reading the old one to its end.
func (c *capture) judgeMiddle() bundle.Part {
	switch {
	case c.differs && c.middle.State == bundle.Proven:
		return bundle.Part{State: bundle.Unproven, Cause: bundle.CauseJoinFailed, Evidence: []string{"a closing read came to a clean end, and was not the end of what is held"}}
	case c.node != nil && c.node.Malformed > 0 && c.middle.State != bundle.Lost:
		return bundle.Part{State: bundle.Unproven, Cause: bundle.CauseKubeletError, Evidence: c.node.Evidence}
	case c.node != nil && !c.node.Middle && c.middle.State != bundle.Lost:
		return bundle.Part{State: bundle.Unproven, Cause: bundle.CauseRotated, Evidence: c.node.Evidence}
	case c.node != nil:
		return c.middle
	case c.resumed && c.served && !c.met && c.middle.State != bundle.Lost:
		return bundle.Part{
			State: bundle.Lost, Cause: bundle.CauseJoinFailed, After: utc(c.log.Last()),
			Evidence: []string{"what an earlier process has stored ends with a line that is no longer served"},
		}
	case c.middle.State != bundle.Proven:
		return c.middle
	case c.pieced && c.served: // if nothing could be read any more, the tail says so
		return bundle.Part{State: bundle.Unproven, Cause: bundle.CauseJoinFailed, Evidence: []string{
			"parts of the log came by reads that begin at a stamp, which leave out what a clock that was set back stamps before it, and the whole could not be compared",
		}}
	case !c.followed || !c.rotatable():
		return c.middle
	case c.aligned:
		return bundle.Part{State: bundle.Proven, Evidence: []string{"the whole log was read again from the same first line, and nothing else was in it"}}
	}
	return bundle.Part{
		State: bundle.Unproven, Cause: bundle.CauseRotated,
		Evidence: []string{fmt.Sprintf("the log is larger than %d bytes, or a quarter of that was written in a second, and was read from a stream, which may miss lines when the kubelet rotates", c.e.rotateAt)},
	}
}

// judgeTail takes the closing read's judgement only where the run's end is known.
func (c *capture) judgeTail(m moment) bundle.Part {
	unproven := func(evidence string) bundle.Part {
		return bundle.Part{State: bundle.Unproven, Cause: bundle.CauseTailUnproven, Evidence: []string{evidence}}
	}
	switch {
	case c.out != nil && c.out.isLong():
		return bundle.Part{
			State: bundle.Lost, Cause: bundle.CauseSpoolFull, After: utc(c.log.Last()),
			Evidence: []string{"the log has as many objects as a record can name, and the rest of it was not kept"},
		}
	case c.out != nil && c.out.isFull():
		return bundle.Part{
			State: bundle.Lost, Cause: bundle.CauseSpoolFull,
			Evidence: []string{"the spool was full, and the rest of the log could not wait at its source"},
		}
	case c.running:
		return bundle.Part{State: bundle.Unproven, Cause: bundle.CauseStillRunning}
	case m.podGone && c.nodeAway && c.tail.State != bundle.Proven:
		return bundle.Part{
			State: bundle.Lost, Cause: bundle.CauseNodeLost, After: utc(c.log.Last()),
			Evidence: []string{"the node could not be reached any more until the pod was gone"},
		}
	case c.resumed && !c.served:
		return bundle.Part{
			State: bundle.Lost, Cause: c.lostCause(m), After: utc(c.log.Last()),
			Evidence: []string{"what an earlier process has read is held, and nothing could be read after it"},
		}
	case c.tail.State == "":
		return unproven("no closing read was possible")
	case c.tail.State == bundle.Proven && !c.followed && !c.own && c.asked != m.slot && !m.podGone:
		return unproven("the container restarted while its log was read")
	case c.tail.State == bundle.Proven && !c.own && c.nextRuns:
		return unproven("the container may have restarted before the status told, so the log may be its successor's")
	case c.tail.State == bundle.Proven && c.maySucceed(m):
		return unproven("the log does not begin before the container's end, and may be its successor's")
	case c.tail.State == bundle.Proven && m.term != nil && unseenEnd(m.term.Reason):
		return unproven("the runtime was away when the container ended, and may not have written down its last lines")
	case m.term == nil && c.tail.State == bundle.Proven:
		return unproven("the kubelet never reported the end")
	}
	return c.tail
}

// maySucceed says whether the log may be that of a later run, of which the status did not tell when it was read: nobody
// named the run, and no line of it is from before the run's end.
func (c *capture) maySucceed(m moment) bool {
	if c.own || c.node != nil || m.term == nil || m.term.FinishedAt.IsZero() {
		return false
	}
	first, end := c.log.First(), m.term.FinishedAt.Time
	silent := c.log.Bytes() == 0
	switch {
	case !silent && first.Before(end):
		return false
	case !m.dying && c.unnamed(silent):
		return true
	case m.dying && !c.followed, !silent && c.asked == slotCurrent && (m.slot == slotPrevious || m.slot == slotNone && !m.podGone):
		return true
	case silent:
		return m.restartable()
	}
	return (m.restartable() || m.dying) && first.After(end.Add(time.Second))
}

// unnamed says whether it is not known that the pod had its name until after the last read.
func (c *capture) unnamed(silent bool) bool {
	err := c.podError()
	return err != nil && !apierrors.IsNotFound(err) && (silent || !errors.Is(err, errOtherPod)) // see foreign
}

// unseenEnd says whether a reason stands for an end that the runtime learned of later: containerd's own word
// (internal/cri/server/restart.go), or the kubelet's.
func unseenEnd(reason string) bool { return reason == "Unknown" || reason == "ContainerStatusUnknown" }

// endOf is when a run ended, as far as it is known; now if it is not.
func endOf(m moment) time.Time {
	if m.term == nil || m.term.FinishedAt.IsZero() {
		return time.Now()
	}
	return m.term.FinishedAt.Time
}

// lived is how long a run lasted; very long if that is not known.
func lived(r *run, m moment) time.Duration {
	if m.term == nil || m.term.FinishedAt.IsZero() || r.startedAt.IsZero() {
		return 1<<63 - 1
	}
	return m.term.FinishedAt.Sub(r.startedAt)
}
