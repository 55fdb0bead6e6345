package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// process is a client's process, with its output in files.
type process struct {
	cmd   *exec.Cmd
	begun time.Time
	done  chan struct{}
	err   error        // of Wait, valid when done is closed
	peak  atomic.Int64 // the most resident memory so far, in bytes, as far as it was looked
	files []*os.File
}

// start starts a process whose stdout goes to a file, and whose stderr to the same with ".err".
func start(stdout string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(args[0], args[1:]...), begun: time.Now(), done: make(chan struct{})} //nolint:gosec // commands of this program
	for _, name := range []string{stdout, stdout + ".err"} {
		f, err := os.Create(name) //nolint:gosec // below the temporary directory
		if err != nil {
			return nil, err
		}
		p.files = append(p.files, f)
	}
	p.cmd.Stdout, p.cmd.Stderr = p.files[0], p.files[1]
	p.cmd.Env = environment()
	// A Ctrl-C is for this program: it ends its clients itself.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start client: %w", err)
	}
	go func() {
		p.err = p.cmd.Wait()
		for _, f := range p.files {
			_ = f.Close()
		}
		close(p.done)
	}()
	go func() {
		for !p.ended() {
			p.look()
			time.Sleep(500 * time.Millisecond)
		}
	}()
	return p, nil
}

// environment is without the settings that a user makes for the program.
func environment() []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "KUBELOGEXPORTER_") {
			env = append(env, v)
		}
	}
	return env
}

// look notes the most memory that the process has had. The rusage of its end is of no use for that: a
// process that Go starts counts the memory of its parent as its own.
func (p *process) look() {
	words := strings.Fields(field(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid), "VmHWM"))
	if kb, err := strconv.ParseInt(words[0], 10, 64); err == nil {
		p.peak.Store(max(p.peak.Load(), kb<<10))
	}
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// end asks the process to end, and kills it if it does not.
func (p *process) end(s os.Signal) {
	if p.ended() {
		return
	}
	p.look()
	_ = p.cmd.Process.Signal(s)
	select {
	case <-p.done:
	case <-time.After(40 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// usage is what processes cost. Children that they waited for are included.
type usage struct {
	cpu   time.Duration
	peak  int64 // the most resident memory of one process, in bytes
	count int
}

func (u *usage) add(p *process) {
	state := p.cmd.ProcessState
	if state == nil {
		return
	}
	u.cpu += state.UserTime() + state.SystemTime()
	u.count++
	u.peak = max(u.peak, p.peak.Load())
}

// exitWords says how a process ended.
func (p *process) exitWords() string {
	var exit *exec.ExitError
	switch {
	case p.err == nil:
		return "exit 0"
	case errors.As(p.err, &exit) && exit.Exited():
		return fmt.Sprintf("exit %d", exit.ExitCode())
	}
	return "ended by us" // stern does not end by itself, and dies of the interrupt
}

// until asks every 50 ms until the answer is yes. It returns false after the limit.
func until(ctx context.Context, limit time.Duration, ok func() bool) (bool, error) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	end := time.After(limit)
	for !ok() {
		select {
		case <-tick.C:
		case <-end:
			return false, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
	return true, nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
