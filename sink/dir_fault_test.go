package sink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	faultKey  = "cluster=c/date=d/pod/uid/object"
	faultBody = "the whole body of the object"
)

// TestDirFaults fails at every call of a Put in turn, with a full disk, a broken one and a power cut.
// Whatever happens: an object that was acknowledged is there whole, one that was not is there whole or
// not at all, nothing else is left, and the next Put succeeds.
func TestDirFaults(t *testing.T) {
	for name, fault := range map[string]error{"ENOSPC": syscall.ENOSPC, "EIO": syscall.EIO, "power": errPower} {
		t.Run(name, func(t *testing.T) {
			for n := 1; ; n++ {
				root := t.TempDir()
				f := newFaulty(t, root, n, fault)
				d, err := newDir(root, f)
				if err == nil {
					err = d.Put(t.Context(), faultKey, strings.NewReader(faultBody))
				}
				if err != nil && !errors.Is(err, fault) {
					t.Errorf("call %d, %s: got %v", n, f.calls[n-1], err)
				}
				if f.n >= n && err == nil && f.calls[n-1] != "remove" {
					t.Errorf("call %d, %s, failed and nobody was told", n, f.calls[n-1])
				}
				if f.cut {
					f.crash(t)
				}
				checkAfterFault(t, root, fmt.Sprintf("call %d of %v", n, f.calls), err == nil)
				if f.n < n {
					if n < 12 {
						t.Fatalf("only %d calls: %v", f.n, f.calls)
					}
					t.Logf("%d calls: %v", f.n, f.calls)
					return
				}
			}
		})
	}
}

// checkAfterFault opens the directory as the next process does.
func checkAfterFault(t *testing.T, root, what string, acknowledged bool) {
	t.Helper()
	d, err := OpenDir(root)
	if err != nil {
		t.Fatalf("%s: open again: %v", what, err)
	}
	release, err := d.Lock()
	if err != nil {
		t.Fatalf("%s: lock again: %v", what, err)
	}
	defer release() //nolint:errcheck // the end of the test
	data, err := os.ReadFile(filepath.Join(root, faultKey))
	switch {
	case err != nil && acknowledged:
		t.Errorf("%s: acknowledged, and not there", what)
	case err == nil && string(data) != faultBody:
		t.Errorf("%s: %q of the object are there", what, data)
	}
	if entries, err := os.ReadDir(filepath.Join(root, tempDir)); err != nil || len(entries) > 0 {
		t.Errorf("%s: left are %v, %v", what, entries, err)
	}
	if perr := d.Put(context.Background(), faultKey, strings.NewReader(faultBody)); perr != nil && (err != nil || !errors.Is(perr, ErrExists)) {
		t.Errorf("%s: put again: %v", what, perr)
	}
	if d.Used() < int64(len(faultBody)) || d.Used() > int64(2*len(faultBody)) {
		t.Errorf("%s: %d bytes are counted", what, d.Used())
	}
}

// TestDirTriedAgain fails at every call of a Put in turn, or ends the process there, and tries again, beside
// another object in the same directory. Then the power is cut. What was acknowledged, or said to exist, is there.
func TestDirTriedAgain(t *testing.T) {
	const beside = "cluster=c/date=d/pod/uid/beside"
	for _, killed := range []bool{false, true} {
		for n := 2; ; n++ { // the first call makes the temporary directory
			root := t.TempDir()
			f := newFaulty(t, root, n, syscall.EIO)
			if killed {
				f.err = errPower
			}
			d, err := newDir(root, f)
			if err != nil {
				t.Fatal(err)
			}
			first := d.Put(t.Context(), faultKey, strings.NewReader(faultBody))
			f.at, f.cut = 0, false
			if killed {
				if d, err = newDir(root, f); err != nil {
					t.Fatal(err)
				}
			}
			for _, key := range []string{beside, faultKey} {
				if err := d.Put(t.Context(), key, strings.NewReader(faultBody)); err != nil && !errors.Is(err, ErrExists) {
					t.Errorf("call %d of %v: again: %v", n, f.calls, err)
				}
			}
			f.crash(t)
			for _, key := range []string{beside, faultKey} {
				if data, err := os.ReadFile(filepath.Join(root, key)); err != nil || string(data) != faultBody {
					t.Errorf("killed %t, call %d of %v: %s: %v", killed, n, f.calls, key, err)
				}
			}
			if first == nil && f.n < n+20 && n > 12 {
				break
			}
		}
	}
}

// TestDirReplaceFaults does the same with Replace: the old object or the new one is there, whole.
func TestDirReplaceFaults(t *testing.T) {
	for name, fault := range map[string]error{"ENOSPC": syscall.ENOSPC, "EIO": syscall.EIO, "power": errPower} {
		t.Run(name, func(t *testing.T) {
			for n := 2; ; n++ { // the first call makes the temporary directory
				root := t.TempDir()
				plain, err := OpenDir(root)
				if err != nil {
					t.Fatal(err)
				}
				if err := plain.Put(t.Context(), faultKey, strings.NewReader("old")); err != nil {
					t.Fatal(err)
				}
				old, err := plain.Stat(t.Context(), faultKey)
				if err != nil {
					t.Fatal(err)
				}
				f := newFaulty(t, root, n, fault)
				d, err := newDir(root, f)
				if err != nil {
					t.Fatal(err)
				}
				err = d.Replace(t.Context(), faultKey, strings.NewReader(faultBody), old)
				if f.cut {
					f.crash(t)
				}
				data, rerr := os.ReadFile(filepath.Join(root, faultKey))
				if rerr != nil || err == nil && string(data) != faultBody || string(data) != "old" && string(data) != faultBody {
					t.Errorf("call %d of %v: %v; there is %q, %v", n, f.calls, err, data, rerr)
				}
				if f.n < n {
					return
				}
			}
		})
	}
}

// TestDirSetAsideFaults: what is to be set aside is in its old place or in the new one, never in none.
func TestDirSetAsideFaults(t *testing.T) {
	for _, fault := range []error{syscall.ENOSPC, syscall.EIO} {
		for n := 2; ; n++ {
			root := t.TempDir()
			f := newFaulty(t, root, n, fault)
			f.at = 0
			d, err := newDir(root, f)
			if err != nil {
				t.Fatal(err)
			}
			if err := d.Put(t.Context(), faultKey, strings.NewReader(faultBody)); err != nil {
				t.Fatal(err)
			}
			f.n, f.at = 0, n-1
			_, err = d.SetAside(faultKey, "the reason")
			places := 0
			for _, name := range []string{faultKey, path.Join(asideDir, faultKey)} {
				if data, err := os.ReadFile(filepath.Join(root, name)); err == nil && string(data) == faultBody {
					places++
				}
			}
			if places != 1 {
				t.Errorf("%v at call %d: it is in %d places", fault, n, places)
			}
			if f.n < f.at {
				reason, rerr := os.ReadFile(filepath.Join(root, asideDir, faultKey+".reason.txt"))
				if err != nil || rerr != nil || string(reason) != "the reason\n" {
					t.Errorf("without a fault: %v, reason %q, %v", err, reason, rerr)
				}
				break
			}
		}
	}
}

// TestDirUsed follows the count of bytes through everything that changes it.
func TestDirUsed(t *testing.T) {
	d, err := OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	release, err := d.Lock()
	if err != nil {
		t.Fatal(err)
	}
	defer release() //nolint:errcheck // the end of the test
	used := func(want int64) {
		t.Helper()
		if got := d.Used(); got != want {
			t.Errorf("%d bytes are counted, want %d", got, want)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(d.Put(t.Context(), "a", strings.NewReader("12345")))
	used(5)
	draft, err := d.Draft([]byte("about"))
	must(err)
	used(10)
	f, err := draft.Temp()
	must(err)
	_, err = io.WriteString(f, "1234567")
	must(err)
	must(f.Truncate(3))
	used(13)
	must(f.Commit("b"))
	used(13)
	g, err := draft.Temp()
	must(err)
	_, err = io.WriteString(g, "1234567")
	must(err)
	used(20)
	must(g.Abort())
	must(draft.Remove())
	used(8)
	if _, err := d.SetAside("a", "why"); err != nil {
		t.Fatal(err)
	}
	must(d.Remove("b"))
	if d.Used() < 5 {
		t.Errorf("what is set aside does not count: %d bytes", d.Used())
	}
	if n, err := d.Free(); err != nil || n <= 0 {
		t.Errorf("free: %d, %v", n, err)
	}
}

// TestDirDrafts leaves drafts behind as a dead process does.
func TestDirDrafts(t *testing.T) {
	root := t.TempDir()
	d, err := OpenDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		d.next.Store(uint64(20 - 4*i)) // names of another order, as those of several processes are
		draft, err := d.Draft(fmt.Append(nil, i))
		if err != nil {
			t.Fatal(err)
		}
		when := time.Unix(1_700_000_000+int64(i), 0)
		if err := os.Chtimes(filepath.Join(root, draft.name, aboutFile), when, when); err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{"first", "second"} {
			f, err := draft.Temp()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(f, text); err != nil {
				t.Fatal(err)
			}
		}
	}
	d, err = OpenDir(root)
	if err != nil {
		t.Fatal(err)
	}
	release, err := d.Lock()
	if err != nil {
		t.Fatal(err)
	}
	defer release() //nolint:errcheck // the end of the test
	drafts, err := d.Drafts()
	if err != nil || len(drafts) != 3 {
		t.Fatalf("%d drafts, %v", len(drafts), err)
	}
	seen := ""
	for _, draft := range drafts {
		about, err := draft.About()
		if err != nil {
			t.Fatal(err)
		}
		seen += string(about)
		files, err := draft.Files()
		if err != nil || len(files) != 2 {
			t.Fatalf("%d files, %v", len(files), err)
		}
		first, _ := io.ReadAll(files[0])
		if !bytes.Equal(first, []byte("first")) {
			t.Errorf("the first file is %q", first)
		}
		for _, f := range files {
			_ = f.Close()
		}
	}
	if seen != "012" {
		t.Errorf("drafts %q", seen)
	}
	if _, err := drafts[0].SetAside("why"); err != nil {
		t.Error(err)
	}
	if err := drafts[1].Remove(); err != nil {
		t.Error(err)
	}
	if drafts, err = d.Drafts(); err != nil || len(drafts) != 1 {
		t.Errorf("%d drafts are left, %v", len(drafts), err)
	}
}
