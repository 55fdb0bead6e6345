package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// mark is in the environment of every process of the node, containerd's shims
// and the programs they run included. It finds those that no record names
// because somebody was killed before writing it. Containers do not inherit it;
// they are found by their cgroup.
const mark = "KUBELOGEXPORTER_NODE_PROCESS=" + dir

// process is the record of a started component. A process id alone may have
// been given to somebody else since; together with the start time it may not.
type process struct {
	Name  string
	PID   int
	Start uint64
}

// start starts a component in a session of its own, so that the terminal's
// Ctrl-C does not reach it, with its output in a log file.
func start(bin, name string, args ...string) (process, error) {
	log, err := os.OpenFile(logFile(name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return process{}, fmt.Errorf("start %s: %w", name, err)
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(bin, name), args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = dir
	// containerd looks for its shim in PATH. On two cores the components spend much of their time on
	// collecting garbage, and memory is there.
	cmd.Env = append(os.Environ(), mark, "PATH="+bin+":"+os.Getenv("PATH"), "GOGC=400")
	if name == "kube-apiserver" {
		// busybox's TLS 1.2 names no signature algorithms, which means SHA-1,
		// and Go refuses that since 1.25. With it, scripts in test pods reach
		// the API with wget.
		cmd.Env = append(cmd.Env, "GODEBUG=tlssha1=1")
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return process{}, fmt.Errorf("start %s: %w", name, err)
	}
	p := process{Name: name, PID: cmd.Process.Pid}
	// The process may outlive this program, so nobody waits for it here;
	// alive reaps it if it ends earlier.
	if err := cmd.Process.Release(); err != nil {
		return p, fmt.Errorf("start %s: %w", name, err)
	}
	if _, p.Start, err = procStat(p.PID); err != nil {
		return p, fmt.Errorf("start %s: %w", name, err)
	}
	record, err := json.Marshal(p)
	if err != nil {
		return p, err
	}
	if err := os.WriteFile(filepath.Join(dir, "run", name+".json"), record, 0o600); err != nil {
		return p, fmt.Errorf("record %s: %w", name, err)
	}
	return p, nil
}

func logFile(name string) string { return filepath.Join(dir, "log", name+".log") }

// recorded returns the processes that were started, dead or alive. A record
// that a crash left half-written names nobody; its process has the mark.
func recorded() ([]process, error) {
	files, err := filepath.Glob(filepath.Join(dir, "run", "*.json"))
	if err != nil {
		return nil, err
	}
	var all []process
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read process record: %w", err)
		}
		var p process
		if json.Unmarshal(data, &p) == nil && p.PID > 1 {
			all = append(all, p)
		}
	}
	return all, nil
}

// alive reports whether the recorded process, and not another with its id,
// still runs. A dead child of this program is reaped.
func (p process) alive() bool {
	state, started, err := procStat(p.PID)
	if err != nil || started != p.Start {
		return false
	}
	if state != 'Z' {
		return true
	}
	// An error means that it is not our child; then its parent reaps it.
	_, _ = syscall.Wait4(p.PID, nil, syscall.WNOHANG, nil)
	return false
}

// wait polls until ready returns nil. It gives up early when the process dies
// and says why from its log.
func (p process) wait(ctx context.Context, limit time.Duration, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		if !p.alive() {
			return fmt.Errorf("wait for %s: it ended\n%s", p.Name, lastLines(logFile(p.Name)))
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return fmt.Errorf("wait for %s: %w", p.Name, ctx.Err())
			}
			return fmt.Errorf("wait for %s: %w: %w\n%s", p.Name, ctx.Err(), err, lastLines(logFile(p.Name)))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func lastLines(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}

// procStat returns the state letter and the start time, in clock ticks since
// boot, of a process.
func procStat(pid int) (state byte, started uint64, err error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, err
	}
	return parseStat(data)
}

// parseStat reads fields 3 and 22 of proc(5)'s stat. Field 2 is the program's
// name in parentheses and may itself hold spaces and parentheses.
func parseStat(data []byte) (state byte, started uint64, err error) {
	end := bytes.LastIndexByte(data, ')')
	if end < 0 {
		return 0, 0, errors.New("parse stat: no program name")
	}
	fields := bytes.Fields(data[end+1:])
	if len(fields) < 20 {
		return 0, 0, fmt.Errorf("parse stat: %d fields after the name, want 20", len(fields))
	}
	started, err = strconv.ParseUint(string(fields[19]), 10, 64)
	if err != nil {
		return 0, 0, fmt.Errorf("parse stat: %w", err)
	}
	return fields[0][0], started, nil
}

// marked returns every process that carries the mark.
func marked() ([]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var all []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		// The start time first: if the id changes hands before the
		// environment is read, the pair is stale and kills nobody.
		_, started, err := procStat(pid)
		if err != nil {
			continue
		}
		environ, err := os.ReadFile("/proc/" + e.Name() + "/environ")
		if err != nil {
			continue
		}
		for v := range bytes.SplitSeq(environ, []byte{0}) {
			if string(v) == mark {
				all = append(all, process{Name: "marked", PID: pid, Start: started})
			}
		}
	}
	return all, nil
}

func (n *Node) restart(ctx context.Context, component string, away time.Duration) error {
	api, err := newClient()
	if err != nil {
		return err
	}
	var args []string
	var ready func(context.Context) error
	switch component {
	case "kubelet":
		args, ready = kubeletArgs(), api.kubeletReady
	case "containerd":
		args, ready = containerdArgs(), containerdReady
	case "kube-apiserver":
		args, ready = apiserverArgs(), api.ready
	default:
		return fmt.Errorf("restart %s: only the kubelet, containerd and kube-apiserver can be", component)
	}
	records, err := recorded()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(records, func(p process) bool { return p.Name == component })
	if i < 0 {
		return fmt.Errorf("restart %s: none was started", component)
	}
	if err := syscall.Kill(records[i].PID, syscall.SIGKILL); err != nil {
		return fmt.Errorf("restart %s: %w", component, err)
	}
	for records[i].alive() {
		time.Sleep(time.Millisecond)
	}
	select {
	case <-time.After(away):
	case <-ctx.Done():
	}
	started, err := start(n.binaries, component, args...)
	if err != nil {
		return err
	}
	return started.wait(ctx, 2*time.Minute, ready)
}

// killAll ends the processes of the node and of its pods, and returns when
// they are gone. There is no polite phase: everything that they would save is
// deleted next, and an API server alone takes seconds to leave politely.
func killAll(ctx context.Context) error {
	deadline := time.Now().Add(20 * time.Second)
	for {
		records, err := recorded()
		if err != nil {
			return err
		}
		marks, err := marked()
		if err != nil {
			return err
		}
		left := 0
		for _, p := range append(append(records, marks...), inCgroups()...) {
			if p.alive() {
				left++
				// It may end by itself in this moment.
				_ = syscall.Kill(p.PID, syscall.SIGKILL)
			}
		}
		if left == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("kill processes: %d are still there after 20 s", left)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("kill processes: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}
