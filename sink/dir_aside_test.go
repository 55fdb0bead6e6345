package sink

import (
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestDirSetAsideForFaults: whichever call fails, there is an object under the key, and the old one is nowhere
// lost. Another try mends it.
func TestDirSetAsideForFaults(t *testing.T) {
	for _, fault := range []error{syscall.ENOSPC, syscall.EIO} {
		for n := 1; ; n++ {
			root := t.TempDir()
			f := newFaulty(t, root, 0, fault)
			d, err := newDir(root, f)
			if err != nil {
				t.Fatal(err)
			}
			if err := d.Put(t.Context(), faultKey, strings.NewReader(faultBody)); err != nil {
				t.Fatal(err)
			}
			f.n, f.at = 0, n
			_, err = d.SetAsideFor(t.Context(), faultKey, "the reason", strings.NewReader("new"))
			now, rerr := os.ReadFile(filepath.Join(root, faultKey))
			aside, _ := os.ReadFile(filepath.Join(root, asideDir, faultKey)) // it may not be there
			if rerr != nil || string(now) != "new" && string(now) != faultBody || string(now) == "new" && string(aside) != faultBody {
				t.Errorf("%v at call %d of %v: there is %q, %v, and set aside %q", fault, n, f.calls, now, rerr, aside)
			}
			if f.n < n {
				reason, rerr := os.ReadFile(filepath.Join(root, asideDir, faultKey+".reason.txt"))
				if err != nil || rerr != nil || string(now) != "new" || string(reason) != "the reason\n" {
					t.Errorf("without a fault: %v, %q, reason %q, %v", err, now, reason, rerr)
				}
				break
			}
		}
	}
}

// TestDirSetAsideNowhere: where nothing can be set aside it is told, and the object stays.
func TestDirSetAsideNowhere(t *testing.T) {
	root := t.TempDir()
	d, err := OpenDir(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Put(t.Context(), faultKey, strings.NewReader(faultBody)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path.Join(root, asideDir), nil, 0o644); err != nil { //nolint:gosec // a test
		t.Fatal(err)
	}
	if _, err := d.SetAside(faultKey, "why"); err == nil {
		t.Error("it was set aside")
	}
	if _, err := d.Stat(t.Context(), faultKey); err != nil {
		t.Error(err)
	}
}
