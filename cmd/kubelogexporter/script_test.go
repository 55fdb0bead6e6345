package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/archive"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"kubelogexporter": main, "kubectl-log_archive": main})
}

// TestScripts types commands as a user would. Each script has a cluster of its own, named by
// $KUBECONFIG, and the commands of commands() beside those of testscript.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       os.Getenv("UPDATE_GOLDEN") != "",
		Setup: func(env *testscript.Env) error {
			kube := &cluster{Server: kubetest.New(t), pods: make(map[string]*pod)}
			env.Values["cluster"], env.Values["receivers"] = kube, make(map[string]*receiver)
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("KUBECONFIG", filepath.Join(env.WorkDir, "kubeconfig"))
			return clientcmd.WriteToFile(kubeconfig(kube.Config().Host), filepath.Join(env.WorkDir, "kubeconfig"))
		},
		Cmds: commands(t),
	})
}

func kubeconfig(server string) clientcmdapi.Config {
	c := clientcmdapi.NewConfig()
	c.Clusters["arn:aws:eks:eu-west-1:1234:cluster/Prod"] = &clientcmdapi.Cluster{Server: server}
	c.Clusters["nowhere"] = &clientcmdapi.Cluster{Server: "http://127.0.0.1:1"}
	c.AuthInfos["ann"] = &clientcmdapi.AuthInfo{}
	c.Contexts["prod"] = &clientcmdapi.Context{Cluster: "arn:aws:eks:eu-west-1:1234:cluster/Prod", AuthInfo: "ann", Namespace: "shop"}
	c.Contexts["away"] = &clientcmdapi.Context{Cluster: "nowhere", AuthInfo: "ann", Namespace: "shop"}
	c.CurrentContext = "prod"
	return *c
}

func commands(t *testing.T) map[string]func(*testscript.TestScript, bool, []string) {
	return map[string]func(*testscript.TestScript, bool, []string){
		"exits":     exits,
		"exited":    exited,
		"terminate": terminate,
		"sample":    func(ts *testscript.TestScript, _ bool, args []string) { ts.Check(writeSample(ts.MkAbs(args[0]))) },
		"pod":       func(ts *testscript.TestScript, _ bool, args []string) { clusterOf(ts).add(ts, args) },
		"print":     func(ts *testscript.TestScript, _ bool, args []string) { clusterOf(ts).print(args) },
		"delete":    func(ts *testscript.TestScript, _ bool, args []string) { clusterOf(ts).delete(args) },
		"exit":      func(ts *testscript.TestScript, _ bool, args []string) { clusterOf(ts).exit(ts, args) },
		"deny":      func(ts *testscript.TestScript, _ bool, args []string) { clusterOf(ts).Deny(args[0], args[1], true) },
		"allow":     func(ts *testscript.TestScript, _ bool, args []string) { clusterOf(ts).Deny(args[0], args[1], false) },
		"await":     await,
		"spooled":   spooled,
		"freeport":  freePort,
		"fetch":     fetch,
		"post":      post,
		"event":     event,
		"until":     until,
		"hangup":    hangup,
		"badstore":  func(ts *testscript.TestScript, _ bool, args []string) { badStore(t, ts, args) },
		"plain":     plain,
		"flip":      flip,
		"age":       age,
		"receive":   func(ts *testscript.TestScript, _ bool, args []string) { receive(t, ts, args) },
		"told":      told,
		"nodefile":  func(ts *testscript.TestScript, _ bool, args []string) { clusterOf(ts).nodeFile(t, ts, args) },
		"remove":    func(ts *testscript.TestScript, _ bool, args []string) { clusterOf(ts).remove(args) },
	}
}

func clusterOf(ts *testscript.TestScript) *cluster { return ts.Value("cluster").(*cluster) }

// exits CODE COMMAND... runs a command and checks its exit code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
		code = failed.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// terminate WORD sends SIGTERM to the command in the background that has this word.
func terminate(ts *testscript.TestScript, _ bool, args []string) {
	for _, cmd := range ts.BackgroundCmds() {
		if slices.Contains(cmd.Args, args[0]) {
			clusterOf(ts).terminated = cmd
			ts.Check(cmd.Process.Signal(syscall.SIGTERM))
			return
		}
	}
	ts.Fatalf("%s does not run", args[0])
}

// exited CODE checks how the command that was terminated last has ended. It comes after wait.
func exited(ts *testscript.TestScript, _ bool, args []string) {
	if code := clusterOf(ts).terminated.ProcessState.ExitCode(); strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// await DIR N waits until an archive has N records.
func await(ts *testscript.TestScript, _ bool, args []string) {
	for end := time.Now().Add(20 * time.Second); ; <-time.After(20 * time.Millisecond) {
		n := 0
		b, err := sink.OpenDir(ts.MkAbs(args[0]))
		ts.Check(err)
		for _, err := range archive.New(b).Runs(context.Background(), archive.Query{Snapshots: true}) {
			ts.Check(err)
			n++
		}
		if strconv.Itoa(n) == args[1] {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%d records after 20 s, want %s", n, args[1])
		}
	}
}

// spooled DIR N waits until a spool holds N records.
func spooled(ts *testscript.TestScript, _ bool, args []string) {
	for end := time.Now().Add(20 * time.Second); ; <-time.After(20 * time.Millisecond) {
		names, err := filepath.Glob(filepath.Join(ts.MkAbs(args[0]), "cluster=*", "*", "*", "*", "*", "_*.json"))
		ts.Check(err)
		if strconv.Itoa(len(names)) == args[1] {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%d records in the spool after 20 s, want %s", len(names), args[1])
		}
	}
}

// freeport VAR sets an environment variable to an address that nobody listens on.
func freePort(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Setenv(args[0], l.Addr().String())
	ts.Check(l.Close())
}

// fetch URL FILE gets a page, as soon as somebody serves it.
func fetch(ts *testscript.TestScript, _ bool, args []string) {
	for end := time.Now().Add(20 * time.Second); ; <-time.After(20 * time.Millisecond) {
		body, err := get(args[0])
		if err == nil {
			ts.Check(os.WriteFile(ts.MkAbs(args[1]), body, 0o600))
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%v", err)
		}
	}
}

// post URL [TOKEN] makes a request, and prints status and answer.
func post(ts *testscript.TestScript, neg bool, args []string) {
	token := ""
	if len(args) > 1 {
		token = args[1]
	}
	send(ts, neg, args[0], token, nil, "{}")
}

func send(ts *testscript.TestScript, neg bool, url, token string, header http.Header, body string) {
	r, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body)) //nolint:noctx // a test's own server
	ts.Check(err)
	maps.Copy(r.Header, header)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := http.DefaultClient.Do(r)
	ts.Check(err)
	defer answer.Body.Close() //nolint:errcheck // read only
	text, err := io.ReadAll(answer.Body)
	ts.Check(err)
	fmt.Fprintf(ts.Stdout(), "%s: %s\n", answer.Status, text)
	if (answer.StatusCode >= 400) != neg {
		ts.Fatalf("%s: %s", answer.Status, text)
	}
}

// until URL PATTERN waits for a page to match.
func until(ts *testscript.TestScript, _ bool, args []string) {
	pattern := regexp.MustCompile(args[1])
	for end := time.Now().Add(20 * time.Second); ; <-time.After(20 * time.Millisecond) {
		body, err := get(args[0])
		if err == nil && pattern.Match(body) {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%s does not match %s: %v", args[0], args[1], err)
		}
	}
}

// hangup NAME sends SIGHUP to a command in the background.
func hangup(ts *testscript.TestScript, _ bool, args []string) {
	for _, c := range ts.BackgroundCmds() {
		if strings.Contains(c.String(), "run --config") {
			ts.Check(c.Process.Signal(syscall.SIGHUP))
			return
		}
	}
	ts.Fatalf("%s does not run", args[0])
}

func get(url string) ([]byte, error) {
	r, err := http.Get(url) //nolint:noctx,gosec // a test's own server
	if err != nil {
		return nil, err
	}
	defer r.Body.Close() //nolint:errcheck // read only
	if r.StatusCode != http.StatusOK {
		return nil, errors.New(r.Status)
	}
	return io.ReadAll(r.Body)
}

// badstore VAR STATUS CODE starts an S3 store that refuses everything with one error code.
func badStore(t *testing.T, ts *testscript.TestScript, args []string) {
	status, err := strconv.Atoi(args[1])
	ts.Check(err)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		fmt.Fprintf(w, "<Error><Code>%s</Code><Message>refused by the test</Message></Error>", args[2])
	}))
	t.Cleanup(s.Close)
	ts.Setenv(args[0], s.URL)
}

// plain FILE... fails if a file, stdout or stderr holds an escape sequence.
func plain(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		if strings.ContainsAny(ts.ReadFile(name), "\x1b\r") {
			ts.Fatalf("%s holds terminal control characters", name)
		}
	}
}

// flip FILE changes one bit in the middle of a file.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	name := ts.MkAbs(args[0])
	b, err := os.ReadFile(name)
	ts.Check(err)
	b[len(b)/2] ^= 1
	ts.Check(os.WriteFile(name, b, 0o600))
}

// age DIR makes all files in a directory two hours old.
func age(ts *testscript.TestScript, _ bool, args []string) {
	old := time.Now().Add(-2 * time.Hour)
	ts.Check(filepath.WalkDir(ts.MkAbs(args[0]), func(name string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Chtimes(name, old, old))
	}))
}
