package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// speed is one result of the Go benchmarks.
type speed struct {
	name   string
	values map[string]string // by unit, as go test prints them
}

// goBenchmarks runs those of the capture path, without a cluster.
func (b *bench) goBenchmarks(ctx context.Context) error {
	if !b.goBench {
		return nil
	}
	b.say("Go benchmarks of the capture path, without a cluster")
	out, err := output(ctx, b.root, "go", "test", "-run", "^$", "-bench", "CapturePath|ZstdAlone|Join", "-benchtime", "7x", "./exporter")
	if err != nil {
		b.failed = errors.Join(b.failed, err) // the rest is worth reporting
		return ctx.Err()
	}
	if b.speeds = speeds(out); len(b.speeds) == 0 {
		return fmt.Errorf("read the Go benchmarks: there are none in %q", out)
	}
	return nil
}

// speeds reads the lines that go test prints: a name, how often it ran, and pairs of value and unit.
func speeds(out string) []speed {
	var all []speed
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) < 4 || !strings.HasPrefix(f[0], "Benchmark") {
			continue
		}
		name := strings.TrimPrefix(f[0], "Benchmark")
		if i := strings.LastIndexByte(name, '-'); i > 0 {
			if _, err := strconv.Atoi(name[i+1:]); err == nil {
				name = name[:i]
			}
		}
		s := speed{name: name, values: make(map[string]string)}
		for i := 2; i+1 < len(f); i += 2 {
			s.values[f[i+1]] = f[i]
		}
		all = append(all, s)
	}
	return all
}
