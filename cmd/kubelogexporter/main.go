// Command kubelogexporter archives the final logs of Kubernetes containers and reads them back.
// This package turns arguments into calls and errors into words and exit codes; it decides nothing about logs.
package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"
	_ "time/tzdata" // for images without time zones

	_ "golang.org/x/crypto/x509roots/fallback" // for images without CA certificates
)

// errInterrupted is the cause of a context that a signal ended.
var errInterrupted = errors.New("interrupted")

func main() {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		cancel(errInterrupted)
		<-signals // whoever asks twice does not want to wait; the spool survives it
		os.Exit(exitInterrupted)
	}()
	os.Exit(run(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr, os.Environ()))
}

// run is the program without its process. args begins with the program's name.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer, environ []string) int {
	a := newApp(args[0], stdin, stdout, stderr, environ)
	root := newRoot(a)
	root.SetArgs(args[1:])
	cmd, err := root.ExecuteContextC(ctx)
	a.cmd = cmd
	if err != nil && !a.began {
		err = &usageError{err}
	}
	return a.explain(err)
}
