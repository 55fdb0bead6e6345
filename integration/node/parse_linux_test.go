package node

import (
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	const rest = " S 1 2 3 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 98765 1000 10"
	for _, test := range []struct {
		name, stat string
		started    uint64
		fails      bool
	}{
		{"plain", "12 (sh)" + rest, 98765, false},
		{"name with space and parenthesis", "12 (a) b (c)" + rest, 98765, false},
		{"no name", "12 sh S 1", 0, true},
		{"short", "12 (sh) S 1 2", 0, true},
		{"empty", "", 0, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			state, started, err := parseStat([]byte(test.stat))
			if (err != nil) != test.fails || started != test.started {
				t.Fatalf("got %d, %v", started, err)
			}
			if err == nil && state != 'S' {
				t.Fatalf("state %c, want S", state)
			}
		})
	}
}

func TestParseMounts(t *testing.T) {
	got := parseMounts("22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw\n" +
		"30 22 0:5 / /mnt/a\\040b rw - tmpfs tmpfs rw\nnonsense\n")
	want := []mount{{"/", "ext4"}, {"/mnt/a b", "tmpfs"}}
	if !slices.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
}

// A process id that now belongs to another process is not ours, and a child
// that ended is reaped.
func TestAlive(t *testing.T) {
	_, started, err := procStat(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if p := (process{PID: os.Getpid(), Start: started}); !p.alive() {
		t.Error("this process counts as dead")
	}
	if p := (process{PID: os.Getpid(), Start: started + 1}); p.alive() {
		t.Error("a process with another start time counts as ours")
	}
	child := exec.Command("sleep", "60")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	_, started, err = procStat(child.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	p := process{PID: child.Process.Pid, Start: started}
	if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); ; {
		if _, _, err := procStat(p.PID); !p.alive() && err != nil {
			return // gone from the process table
		}
		if time.Now().After(deadline) {
			t.Fatal("a killed child is not reaped")
		}
		time.Sleep(time.Millisecond)
	}
}
