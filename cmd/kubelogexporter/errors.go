package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kubelogexporter/kubelogexporter/exporter"
	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/archive"
)

// The exit codes; exitHelp explains them to the user.
const (
	exitError       = 1
	exitUsage       = 2
	exitNoMatch     = 3
	exitPartial     = 4
	exitForbidden   = 5
	exitStorage     = 6
	exitInterrupted = 130 // 128 + SIGINT, as shells have it
)

// The exit codes of verify; its help explains them.
const (
	exitDamaged   = 1
	exitUnchecked = 2
	exitGaps      = 3
)

// usageError says that the command line is wrong.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// codeError gives an error an exit code and the next steps for the user.
type codeError struct {
	error
	code  int
	hints []string
}

func (e *codeError) Unwrap() error { return e.error }

// codeOnly is an exit code for which everything is said already.
type codeOnly int

func (c codeOnly) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// storageError marks an error of the storage, and adds what the sink advises.
func storageError(err error) error {
	if err == nil {
		return nil
	}
	return &codeError{error: err, code: exitStorage, hints: advice(err)}
}

// readError words a failure to read the archive.
func readError(err error) error {
	if bad := (*archive.DamagedError)(nil); errors.As(err, &bad) {
		return &codeError{error: err, code: exitError, hints: []string{"other runs are not affected; " + bad.Key + " must be restored from a copy"}}
	}
	return storageError(err)
}

func advice(err error) []string {
	if hint := sink.Hint(err); hint != "" {
		return []string{hint}
	}
	return nil
}

// explain prints an error with the next step and returns the exit code.
func (a *app) explain(err error) int {
	if err == nil {
		return 0
	}
	if code := codeOnly(0); errors.As(err, &code) {
		return int(code)
	}
	code, hints := a.judge(err)
	if code == exitInterrupted {
		fmt.Fprintln(a.stderr, "interrupted")
	} else {
		fmt.Fprintf(a.stderr, "error: %s\n", err)
	}
	for _, hint := range hints {
		fmt.Fprintf(a.stderr, "hint: %s\n", hint)
	}
	return code
}

func (a *app) judge(err error) (code int, hints []string) {
	if errors.Is(err, errInterrupted) || errors.Is(err, context.Canceled) {
		return exitInterrupted, nil
	}
	if usage := (*usageError)(nil); errors.As(err, &usage) {
		return exitUsage, []string{a.cmd.CommandPath() + " --help"}
	}
	if coded := (*codeError)(nil); errors.As(err, &coded) {
		return coded.code, coded.hints
	}
	if denied := (*exporter.AccessError)(nil); errors.As(err, &denied) {
		return exitForbidden, accessHints(denied)
	}
	switch {
	case apierrors.IsUnauthorized(err):
		return exitForbidden, []string{"the API server does not know this identity: log in again, and try kubectl auth whoami"}
	case apierrors.IsForbidden(err):
		return exitForbidden, []string{"kubectl auth whoami and kubectl auth can-i --list show what this identity may do"}
	}
	if failed := (*url.Error)(nil); errors.As(err, &failed) {
		hint := "is the API server reachable from here? Try kubectl cluster-info"
		if a.cmd.Flags().Lookup("context") != nil {
			hint += ", or choose another with --context"
		}
		return exitError, []string{hint}
	}
	return exitError, nil
}

// accessHints say who lacks what, how to see it and how to mend it.
func accessHints(e *exporter.AccessError) []string {
	var hints []string
	as := ""
	if e.Identity != "" {
		hints = append(hints, "identity: "+e.Identity)
		as = " --as=" + e.Identity
	}
	for _, p := range e.Missing {
		resource := p.Resource
		if p.Subresource != "" {
			resource += " --subresource=" + p.Subresource
		}
		where := " -A"
		if p.Namespace != "" {
			where = " -n " + p.Namespace
		}
		hints = append(hints, fmt.Sprintf("missing: %s; check: kubectl auth can-i %s %s%s%s", p, p.Verb, resource, where, as))
	}
	for _, step := range e.Fix() {
		hints = append(hints, "fix: "+step)
	}
	if slices.ContainsFunc(e.Missing, func(p exporter.Permission) bool { return p.Resource == "pods" && p.Namespace == "" }) {
		hints = append(hints, "or grant it in some namespaces only, and name them with -n or in the selections of the exports")
	}
	return hints
}
