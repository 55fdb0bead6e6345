package main

import (
	"strings"
	"testing"
	"time"
)

// The version of a kernel is told, and not who built it.
func TestRelease(t *testing.T) {
	for kernel, want := range map[string]string{"Linux 6.1.0-28-amd64": "Linux 6.1.0", "Linux 6.18.44-own-v1": "Linux 6.18.44", "Linux 6.12.3": "Linux 6.12.3"} {
		if got := release(kernel); got != want {
			t.Errorf("%s: %s, want %s", kernel, got, want)
		}
	}
}

// A line that is missing, twice, cut or somebody else's is told from one that is kept.
func TestTally(t *testing.T) {
	const text = `2026-11-23T10:00:00.000000001Z line 0000001 a text .
2026-11-23T10:00:00.000000002Z stdout F line 0000002 a text .
2026-11-23T10:00:00.000000003Z line 0000002 a text .
2026-11-23T10:00:00.000000004Z line 0000005 a text .
2026-11-23T10:00:00.000000005Z line 0000006 a te
failed to create fsnotify watcher: too many open files
2026-11-23T10:00:00.000000006Z line 0000001 b text .
2026-11-23T10:00:00.000000007Z line 0000007 a`
	tally := newTally()
	if err := tally.read(strings.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	kept, twice, gaps := tally.count(map[string]int{"a": 7, "b": 1, "c": 2})
	if kept != 4 || twice != 1 || gaps != 3 || tally.cut != 2 || tally.other != 1 || tally.bytes != int64(len(text)) {
		t.Errorf("%d kept, %d twice, %d gaps, %d cut, %d other, %d bytes of %d", kept, twice, gaps, tally.cut, tally.other, tally.bytes, len(text))
	}
	if want := time.Date(2026, 11, 23, 10, 0, 0, 4, time.UTC); !tally.pods["a"].last.Equal(want) {
		t.Errorf("last line of a at %s", tally.pods["a"].last)
	}
	both := newTally()
	both.merge(tally)
	both.merge(tally)
	if kept, twice, gaps := both.count(map[string]int{"a": 7, "b": 1, "c": 2}); kept != 4 || twice != 6 || gaps != 3 {
		t.Errorf("merged: %d kept, %d twice, %d gaps", kept, twice, gaps)
	}
}

func TestSpeeds(t *testing.T) {
	all := speeds("goos: linux\nBenchmarkZstdAlone/1MiB-2 \t 3\t 9058312 ns/op\t 115.76 MB/s\t 17 allocs/op\nPASS\n")
	if len(all) != 1 || all[0].name != "ZstdAlone/1MiB" || all[0].values["MB/s"] != "115.76" {
		t.Errorf("%+v", all)
	}
}
