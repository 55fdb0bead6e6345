package nodelog

import (
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// at runs f before the i-th request.
func (n *node) at(i int, f func()) {
	n.kubelet.Before(func(at int, _ http.ResponseWriter, _ *http.Request) bool {
		if at == i {
			f()
		}
		return false
	})
}

// The oldest new name is not that of the file that was read, because that was removed: nothing of the
// other file may be skipped.
func TestAnotherFileUnderTheName(t *testing.T) {
	n := newNode(t, 2)
	n.write(101)
	n.at(3, func() { // when the end of the current file is asked for
		for range 2 {
			n.rotate()
			n.write(401)
		}
	})
	text, report, err := n.read(time.Time{})
	if err != nil || text != n.all() || report.Middle { // that all was read cannot be known
		t.Errorf("%v, %+v, %s", err, report, difference(text, n.all()))
	}
}

// Where files may be missing, two halves of lines are not put together.
func TestNoJoinOverAGap(t *testing.T) {
	n := newNode(t, 2)
	n.write(100) // ends with half a line
	n.rotate()
	n.at(4, func() {
		for range 3 {
			n.write(20)
			n.rotate()
		}
	})
	text, report, err := n.read(time.Time{})
	if err != nil || report.Middle || !strings.Contains(text, " 0000100 \n") {
		t.Errorf("%v, %+v, %q", err, report, text[max(0, len(text)-500):])
	}
	n.check("", text, report)
}

// A removal begins between the opening of the current file, which was small, and the listing.
func TestRemovalWhileOpening(t *testing.T) {
	n := newNode(t, 5)
	n.maxSize = 500
	for range 5 {
		n.write(20)
		n.rotate()
	}
	n.write(3)
	n.at(6, func() {
		n.write(20)
		n.rotation()[0]()
	})
	text, report, err := n.read(time.Time{})
	if err != nil || report.Head || n.removed != 2 {
		t.Errorf("%v, %+v, %d removed", err, report, n.removed)
	}
	n.check("", text, report)
}

// Somebody else than the kubelet truncates the current file.
func TestTruncated(t *testing.T) {
	n := newNode(t, 5)
	n.write(100)
	want := n.all()
	n.at(3, func() { n.must(os.Truncate(n.path(""), 10)) })
	text, report, err := n.read(time.Time{})
	if err != nil || text != want || report.Tail || report.whole() {
		t.Errorf("%v, %+v, %s", err, report, difference(text, want))
	}
}

// A reader that is slower than the kubelet's rotation still gets all: the files stay open.
func TestSlowReader(t *testing.T) {
	n := newNode(t, 3)
	for range 2 {
		for len(n.files[len(n.files)-1]) < 12<<20 { // more than the sockets hold
			n.write(20_000)
		}
		n.rotate()
	}
	n.write(11)
	r, err := n.client().Open(t.Context(), n.kubelet.Host(), testRun(), time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	buf := make([]byte, 100_000)
	for i := 0; ; i++ {
		m, err := r.Read(buf)
		text.Write(buf[:m])
		if i == 50 {
			for range 2 { // both rotated files are removed
				n.rotate()
				n.write(7)
			}
		}
		if err != nil {
			break
		}
	}
	if report := r.Report(); text.String() != n.all() || !report.Middle || !report.Tail {
		t.Errorf("%+v, %s", report, difference(text.String(), n.all()))
	}
	_ = r.Close()
}

// The same, when the listing before was made in another rotation, so that the numbers are equal.
func TestRemovalTwiceWhileOpening(t *testing.T) {
	n := newNode(t, 5)
	n.maxSize = 500
	for range 5 {
		n.write(20)
		n.rotate()
	}
	n.write(20)
	steps := n.rotation()
	steps[0]()
	n.kubelet.Before(func(i int, _ http.ResponseWriter, _ *http.Request) bool {
		switch i {
		case 1:
			for _, step := range steps[1:] {
				step()
			}
			n.write(3)
		case 9: // the listing after the second opening of the current file
			n.write(20)
			n.rotation()[0]()
		}
		return false
	})
	text, report, err := n.read(time.Time{})
	if err != nil || report.Head || n.removed != 3 || len(n.kubelet.Requests()) != 14 {
		t.Errorf("%v, %+v, %d removed, %q", err, report, n.removed, n.kubelet.Requests())
	}
	n.check("", text, report)
}

// The current file is open when it is rotated: what was written between is read under its new name.
func TestRenamedWhileOpen(t *testing.T) {
	n := three(t, 6)
	n.kubelet.Before(func(i int, w http.ResponseWriter, r *http.Request) bool {
		switch i {
		case 1:
			cut(w, r, n.dir)
		case 5: // the same file again, when all are open
			n.write(50)
			n.rotate()
			n.write(50)
		}
		return i == 1
	})
	text, report, err := n.read(time.Time{})
	if err != nil || text != n.all() || !report.whole() {
		t.Errorf("%v, %q, %s", err, report.Evidence, difference(text, n.all()))
	}
}
