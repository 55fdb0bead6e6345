package schedule

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func parse(t testing.TB, s Spec) *Schedule {
	t.Helper()
	sched, err := Parse(s)
	if err != nil {
		t.Fatalf("Parse(%+v): %v", s, err)
	}
	return sched
}

func stamp(t testing.TB, s string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// starts lists the starts after one time and before another, as the clock on the wall shows them.
func starts(s *Schedule, after, before time.Time) []string {
	var all []string
	for at := s.Next(after); !at.IsZero() && at.Before(before); at = s.Next(at) {
		all = append(all, at.Format("Mon 15:04-07:00"))
	}
	return all
}

// TestDaylightSaving holds both days of each zone, from midnight UTC to midnight, unless a time is given.
func TestDaylightSaving(t *testing.T) {
	const (
		newYork  = "America/New_York"    // 02:00 → 03:00 on 8 March, 02:00 → 01:00 on 1 November
		berlin   = "Europe/Berlin"       // 02:00 → 03:00 on 29 March, 03:00 → 02:00 on 25 October
		lordHowe = "Australia/Lord_Howe" // 02:00 → 02:30 on 4 October, 02:00 → 01:30 on 5 April
		cairo    = "Africa/Cairo"        // Friday 00:00 → 01:00 on 24 April, Friday 00:00 → Thursday 23:00 on 30 October
		santiago = "America/Santiago"    // Sunday 00:00 → 01:00 on 6 September, Sunday 00:00 → Saturday 23:00 on 5 April
	)
	for _, c := range []struct{ line, zone, after, before, want string }{
		{"30 2 * * *", newYork, "2026-03-07T00:00:00-05:00", "2026-03-10T00:00:00-04:00", "Sat 02:30-05:00, Sun 03:00-04:00, Mon 02:30-04:00"},
		{"30 1 * * *", newYork, "2026-10-31T00:00:00-04:00", "2026-11-03T00:00:00-05:00", "Sat 01:30-04:00, Sun 01:30-04:00, Mon 01:30-05:00"},
		{"30 2 * * *", newYork, "2026-10-31T00:00:00-04:00", "2026-11-03T00:00:00-05:00", "Sat 02:30-04:00, Sun 02:30-05:00, Mon 02:30-05:00"},
		{"0,30 1-3 * * *", newYork, "2026-03-08T00:00:00-05:00", "2026-03-09T00:00:00-04:00", "Sun 01:00-05:00, Sun 01:30-05:00, Sun 03:00-04:00, Sun 03:30-04:00"},
		{"0,30 1-2 * * *", newYork, "2026-11-01T00:00:00-04:00", "2026-11-02T00:00:00-05:00", "Sun 01:00-04:00, Sun 01:30-04:00, Sun 02:00-05:00, Sun 02:30-05:00"},
		{"*/30 2 * * *", newYork, "2026-03-08T00:00:00-05:00", "2026-03-09T00:00:00-04:00", "Sun 03:00-04:00"},
		{"*/30 * * * *", newYork, "2026-03-08T00:50:00-05:00", "2026-03-08T03:40:00-04:00", "Sun 01:00-05:00, Sun 01:30-05:00, Sun 03:00-04:00, Sun 03:30-04:00"},
		{"*/30 * * * *", newYork, "2026-11-01T00:50:00-04:00", "2026-11-01T02:10:00-05:00", "Sun 01:00-04:00, Sun 01:30-04:00, Sun 01:00-05:00, Sun 01:30-05:00, Sun 02:00-05:00"},
		{"0 * * * *", newYork, "2026-03-08T00:50:00-05:00", "2026-03-08T04:10:00-04:00", "Sun 01:00-05:00, Sun 03:00-04:00, Sun 04:00-04:00"},
		{"@hourly", newYork, "2026-11-01T00:50:00-04:00", "2026-11-01T02:10:00-05:00", "Sun 01:00-04:00, Sun 01:00-05:00, Sun 02:00-05:00"},
		{"0 */2 * * *", newYork, "2026-03-08T00:00:00-05:00", "2026-03-08T07:00:00-04:00", "Sun 04:00-04:00, Sun 06:00-04:00"},

		{"30 2 * * *", berlin, "2026-03-28T00:00:00+01:00", "2026-03-31T00:00:00+02:00", "Sat 02:30+01:00, Sun 03:00+02:00, Mon 02:30+02:00"},
		{"30 2 * * *", berlin, "2026-10-24T00:00:00+02:00", "2026-10-27T00:00:00+01:00", "Sat 02:30+02:00, Sun 02:30+02:00, Mon 02:30+01:00"},
		{"*/15 * * * *", berlin, "2026-10-25T02:40:00+02:00", "2026-10-25T02:20:00+01:00", "Sun 02:45+02:00, Sun 02:00+01:00, Sun 02:15+01:00"},
		{"30 2 29 3 *", berlin, "2026-01-01T00:00:00+01:00", "2027-01-01T00:00:00+01:00", "Sun 03:00+02:00"},
		{"30 2 * * SUN", berlin, "2026-03-28T00:00:00+01:00", "2026-03-31T00:00:00+02:00", "Sun 03:00+02:00"},

		{"15 2 * * *", lordHowe, "2026-10-03T00:00:00+10:30", "2026-10-06T00:00:00+11:00", "Sat 02:15+10:30, Sun 02:30+11:00, Mon 02:15+11:00"},
		{"45 1 * * *", lordHowe, "2026-04-04T00:00:00+11:00", "2026-04-07T00:00:00+10:30", "Sat 01:45+11:00, Sun 01:45+11:00, Mon 01:45+10:30"},
		{"0 * * * *", lordHowe, "2026-10-04T00:30:00+10:30", "2026-10-04T04:10:00+11:00", "Sun 01:00+10:30, Sun 03:00+11:00, Sun 04:00+11:00"},
		{"0 * * * *", lordHowe, "2026-04-05T00:30:00+11:00", "2026-04-05T03:10:00+10:30", "Sun 01:00+11:00, Sun 02:00+10:30, Sun 03:00+10:30"},
		{"0 */2 * * *", lordHowe, "2026-04-05T00:30:00+11:00", "2026-04-05T04:10:00+10:30", "Sun 02:00+10:30, Sun 04:00+10:30"}, // robfig/cron skips the first
		{"*/15 * * * *", lordHowe, "2026-04-05T01:30:00+11:00", "2026-04-05T02:10:00+10:30", "Sun 01:45+11:00, Sun 01:30+10:30, Sun 01:45+10:30, Sun 02:00+10:30"},

		{"30 0 * * *", cairo, "2026-04-23T00:00:00+02:00", "2026-04-26T00:00:00+03:00", "Thu 00:30+02:00, Fri 01:00+03:00, Sat 00:30+03:00"},
		{"0 0 * * FRI", cairo, "2026-04-23T00:00:00+02:00", "2026-04-26T00:00:00+03:00", "Fri 01:00+03:00"},
		{"@daily", cairo, "2026-04-23T12:00:00+02:00", "2026-04-25T12:00:00+03:00", "Fri 01:00+03:00, Sat 00:00+03:00"},
		{"30 23 * * *", cairo, "2026-10-28T00:00:00+03:00", "2026-10-31T00:00:00+02:00", "Wed 23:30+03:00, Thu 23:30+03:00, Fri 23:30+02:00"},
		{"0 0 * * *", cairo, "2026-10-29T12:00:00+03:00", "2026-10-31T12:00:00+02:00", "Fri 00:00+02:00, Sat 00:00+02:00"},
		{"30 0 * * *", santiago, "2026-09-05T00:00:00-04:00", "2026-09-08T00:00:00-03:00", "Sat 00:30-04:00, Sun 01:00-03:00, Mon 00:30-03:00"},
		{"0 0 6 9 *", santiago, "2026-01-01T00:00:00-03:00", "2026-12-31T00:00:00-03:00", "Sun 01:00-03:00"},
		{"30 23 * * *", santiago, "2026-04-04T00:00:00-03:00", "2026-04-06T00:00:00-04:00", "Sat 23:30-03:00, Sun 23:30-04:00"},

		{"0 12 * * *", "Pacific/Apia", "2011-12-28T13:00:00-10:00", "2012-01-01T00:00:00+14:00", "Thu 12:00-10:00, Sat 00:00+14:00, Sat 12:00+14:00"}, // the 30th did not exist
		{"@every 1h", newYork, "2026-03-08T00:30:00-05:00", "2026-03-08T04:40:00-04:00", "Sun 01:30-05:00, Sun 03:30-04:00, Sun 04:30-04:00"},
		{"@every 1h", newYork, "2026-11-01T00:30:00-04:00", "2026-11-01T02:40:00-05:00", "Sun 01:30-04:00, Sun 01:30-05:00, Sun 02:30-05:00"},
	} {
		s := parse(t, Spec{Cron: c.line, TimeZone: c.zone})
		got := strings.Join(starts(s, stamp(t, c.after), stamp(t, c.before)), ", ")
		if got != c.want {
			t.Errorf("%q in %s after %s:\n got %s\nwant %s", c.line, c.zone, c.after, got, c.want)
		}
	}
}

// TestEveryMinute compares Next with a walk through all minutes around each change of the clock, in zones
// of every sort.
func TestEveryMinute(t *testing.T) {
	changes := 0
	for _, zone := range []string{"America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Africa/Cairo", "America/Santiago", "Africa/Casablanca", "Atlantic/Azores", "Antarctica/Troll", "Pacific/Apia"} {
		loc, err := time.LoadLocation(zone)
		if err != nil {
			t.Fatal(err)
		}
		for at := time.Date(2010, 1, 1, 0, 0, 0, 0, loc); ; changes++ {
			_, end := at.ZoneBounds()
			if end.IsZero() || end.Year() > 2013 && zone == "Pacific/Apia" || end.Year() > 2011 && zone != "Pacific/Apia" {
				break
			}
			around(t, zone, loc, end.Add(-50*time.Hour).Truncate(time.Hour), end.Add(50*time.Hour))
			at = end.In(loc)
		}
	}
	if changes < 20 {
		t.Fatalf("only %d changes of the clock were looked at", changes)
	}
}

func around(t *testing.T, zone string, loc *time.Location, from, to time.Time) {
	t.Helper()
	for _, r := range []struct {
		line     string
		interval bool
		match    func(w time.Time) bool
	}{
		{"*/15 * * * *", true, func(w time.Time) bool { return w.Minute()%15 == 0 }},
		{"10 */3 * * *", true, func(w time.Time) bool { return w.Minute() == 10 && w.Hour()%3 == 0 }},
		{"*/10 0,1,2,3,23 * * *", false, func(w time.Time) bool {
			return w.Minute()%10 == 0 && (w.Hour() <= 3 || w.Hour() == 23)
		}},
		{"0 0 13 * SUN", false, func(w time.Time) bool {
			return w.Minute() == 0 && w.Hour() == 0 && (w.Day() == 13 || w.Weekday() == time.Sunday)
		}},
	} {
		want := walk(loc, from, to, r.interval, r.match)
		s := parse(t, Spec{Cron: r.line, TimeZone: zone})
		var got []time.Time
		for at := s.Next(from); at.Before(to); at = s.Next(at) {
			got = append(got, at)
		}
		if !slices.EqualFunc(got, want, time.Time.Equal) {
			for i := range min(len(got), len(want)) {
				if !got[i].Equal(want[i]) {
					t.Fatalf("%q in %s: start %d is %s, want %s", r.line, zone, i, got[i], want[i])
				}
			}
			t.Fatalf("%q in %s: %d starts, want %d", r.line, zone, len(got), len(want))
		}
	}
}

// walk is the rule of the documentation, minute by minute.
func walk(loc *time.Location, from, to time.Time, interval bool, match func(time.Time) bool) []time.Time {
	var all []time.Time
	highest := wall(from.In(loc)) // that the clock has shown
	for at := from.Add(time.Minute); at.Before(to); at = at.Add(time.Minute) {
		now := wall(at.In(loc))
		if interval {
			if match(now) {
				all = append(all, at)
			}
			continue
		}
		hit := false
		for highest.Before(now) { // one minute, or a gap
			highest = highest.Add(time.Minute)
			hit = hit || match(highest)
		}
		if hit {
			all = append(all, at)
		}
	}
	return all
}

func TestLines(t *testing.T) {
	for _, c := range []struct{ line, after, want string }{
		{"0 0 * * 7", "2026-11-23T00:00:00Z", "2026-11-29T00:00:00Z"},
		{"0 0 * * 5-7", "2026-11-28T00:00:00Z", "2026-11-29T00:00:00Z"},
		{"0 0 * * FRI-SUN", "2026-11-28T00:00:00Z", "2026-11-29T00:00:00Z"},
		{"0 0 * * fri-sun", "2026-11-23T00:00:00Z", "2026-11-27T00:00:00Z"},
		{"0 0 * * 1,7", "2026-11-23T00:00:00Z", "2026-11-29T00:00:00Z"},
		{"0 0 * * 1-7/3", "2026-11-26T00:00:00Z", "2026-11-29T00:00:00Z"},
		{"0 0 * * 0-7", "2026-11-28T00:00:00Z", "2026-11-29T00:00:00Z"},
		{"0 0 * * sun", "2026-11-23T00:00:00Z", "2026-11-29T00:00:00Z"},
		{"0 0 15 * FRI", "2026-11-15T00:00:00Z", "2026-11-20T00:00:00Z"}, // either
		{"0 0 15 * FRI", "2026-12-11T00:00:00Z", "2026-12-15T00:00:00Z"},
		{"0 0 13 * *", "2026-11-23T00:00:00Z", "2026-12-13T00:00:00Z"},
		{"0 0 29 2 *", "2026-11-23T00:00:00Z", "2028-02-29T00:00:00Z"},
		{"0 0 29 2 *", "2096-03-01T00:00:00Z", "2104-02-29T00:00:00Z"}, // 2100 has none
		{"5/20 * * * *", "2026-11-23T00:06:00Z", "2026-11-23T00:25:00Z"},
		{"  0   3 * * ?  ", "2026-11-23T00:00:00Z", "2026-11-23T03:00:00Z"},
		{"@weekly", "2026-11-23T00:00:00Z", "2026-11-29T00:00:00Z"},
		{"@every 10s", "2026-11-23T00:00:00Z", "2026-11-23T00:00:10Z"},
		{"@every 90m", "2026-11-23T00:00:00.7Z", "2026-11-23T01:30:00Z"},
		{"59 23 31 12 *", "2026-12-31T23:59:00Z", "2027-12-31T23:59:00Z"},
	} {
		if got := parse(t, Spec{Cron: c.line}).Next(stamp(t, c.after)); !got.Equal(stamp(t, c.want)) {
			t.Errorf("%q after %s: %s, want %s", c.line, c.after, got, c.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct {
		spec Spec
		want string // part of the message
	}{
		{Spec{Cron: ""}, "is empty"},
		{Spec{Cron: "TZ=UTC"}, "set timeZone instead"},
		{Spec{Cron: "CRON_TZ=UTC"}, "set timeZone instead"},
		{Spec{Cron: " TZ=Europe/Berlin 0 3 * * *"}, "set timeZone instead"},
		{Spec{Cron: "@every 0s"}, "shorter than the least"},
		{Spec{Cron: "@every -5m"}, "shorter than the least"},
		{Spec{Cron: "@every 500ms"}, "shorter than the least"},
		{Spec{Cron: "@every 9.9s"}, "shorter than the least"},
		{Spec{Cron: "@every 10.5s"}, "whole seconds"},
		{Spec{Cron: "@every 99999h"}, "longer than the most"},
		{Spec{Cron: "@every"}, "write a duration"},
		{Spec{Cron: "@every5m"}, "write a duration"},
		{Spec{Cron: "@reboot"}, "not supported"},
		{Spec{Cron: "@fortnightly"}, "none of @yearly"},
		{Spec{Cron: "0 0 30 2 *"}, "never runs"},
		{Spec{Cron: "0 0 31 4,6,9,11 *"}, "never runs"},
		{Spec{Cron: "*/90 * * * *"}, `write "@every 90m"`},
		{Spec{Cron: "0 */24 * * *"}, `write "@every 24h"`},
		{Spec{Cron: "0 0 */40 * *"}, "the step 40 is larger"},
		{Spec{Cron: "0-10/15 * * * *"}, "the step 15 is larger"},
		{Spec{Cron: "*/0 * * * *"}, "not a positive number"},
		{Spec{Cron: "*/-5 * * * *"}, "not a positive number"},
		{Spec{Cron: "* * * *"}, "4 fields, not 5"},
		{Spec{Cron: "0 0 3 * * *"}, "no field for seconds"},
		{Spec{Cron: "60 * * * *"}, "minute \"60\": 60 is not within 0-59"},
		{Spec{Cron: "0 24 * * *"}, "hour \"24\": 24 is not within 0-23"},
		{Spec{Cron: "0 0 0 * *"}, "day of month \"0\": 0 is not within 1-31"},
		{Spec{Cron: "0 0 * * 8"}, "day of week \"8\": 8 is not within 0-7"},
		{Spec{Cron: "0 0 * FOO *"}, "neither a number nor a name"},
		{Spec{Cron: ", * * * *"}, "is empty"}, // robfig/cron takes it and never runs
		{Spec{Cron: "5,,6 * * * *"}, "is empty"},
		{Spec{Cron: "+5 * * * *"}, "not a number"},
		{Spec{Cron: "*-5 * * * *"}, "not a number"},
		{Spec{Cron: "1-2-3 * * * *"}, "not a number"},
		{Spec{Cron: "0 22-2 * * *"}, "write it as two, such as 22-23,0-2"},
		{Spec{Cron: "0 0 1 1 *" + strings.Repeat(" ", 10) + strings.Repeat("1,", 600)}, "longer than"},
		{Spec{Cron: "@daily", TimeZone: "Nope/Zone"}, "timeZone \"Nope/Zone\" is not known"},
		{Spec{Cron: "@daily", TimeZone: "Local"}, "not the same everywhere"},
		{Spec{Cron: "@daily", TimeZone: "../etc/passwd"}, "is not known"},
		{Spec{Cron: "@daily", ConcurrencyPolicy: "forbid"}, "none of Forbid, Allow, Replace"},
		{Spec{Cron: "@daily", CatchUp: "all"}, "none of none, last"},
		{Spec{Cron: "@daily", StartingDeadline: 5 * time.Second}, "shorter than the least"},
		{Spec{Cron: "@daily", Jitter: -1}, "not within"},
		{Spec{Cron: "*/15 * * * *", Jitter: time.Hour}, "jitter 1h0m0s is not shorter than the 15m0s"},
		{Spec{Cron: "@daily", WatchFor: -1}, "negative"},
		{Spec{Cron: "@daily", WatchFor: time.Hour, CatchUp: CatchUpLast}, "catchUp last means nothing with watchFor"},
		{Spec{Cron: "@daily", WatchFor: time.Hour, StartingDeadline: time.Hour}, "startingDeadline 1h0m0s means nothing with watchFor"},
		{Spec{Cron: "@daily", WatchFor: time.Hour, ConcurrencyPolicy: Replace}, "concurrencyPolicy Replace means nothing with watchFor"},
		{Spec{Cron: "@daily", WatchFor: time.Hour, Jitter: time.Minute}, "jitter 1m0s means nothing with watchFor"},
	} {
		s, err := Parse(c.spec)
		if err == nil || !strings.Contains(err.Error(), c.want) || s != nil {
			t.Errorf("Parse(%+v): %v, want an error with %q", c.spec, err, c.want)
		}
	}
	if _, err := Parse(Spec{Cron: "0 3 * * *", TimeZone: "Europe/Berlin"}); err != nil {
		t.Error(err)
	}
	if _, err := Parse(Spec{Cron: "0 3 * *", TimeZone: "Nope"}); err == nil || !strings.Contains(err.Error(), "4 fields") || !strings.Contains(err.Error(), "Nope") {
		t.Errorf("Parse tells %v, not both mistakes", err)
	}
}

func TestMissed(t *testing.T) {
	now := stamp(t, "2026-11-23T12:00:30Z")
	for _, c := range []struct {
		line, after, last string
		n                 int64
	}{
		{"* * * * *", "2026-11-23T12:00:00Z", "", 0},
		{"* * * * *", "2026-11-23T11:57:00Z", "2026-11-23T12:00:00Z", 3},
		{"* * * * *", "2024-11-23T11:57:00Z", "2026-11-23T12:00:00Z", maxWalk},
		{"@every 10s", "2026-11-23T12:00:05Z", "2026-11-23T12:00:25Z", 2},
		{"@every 10s", "2026-11-23T12:00:20Z", "2026-11-23T12:00:30Z", 1},
		{"@every 10s", "2016-11-23T12:00:00Z", "2026-11-23T12:00:30Z", 3652*8640 + 3},
		{"0 0 1 1 *", "2000-01-01T00:00:00Z", "2026-01-01T00:00:00Z", 26},
	} {
		last, n := parse(t, Spec{Cron: c.line}).missed(stamp(t, c.after), now)
		if n != c.n || n > 0 && !last.Equal(stamp(t, c.last)) {
			t.Errorf("%q after %s: %s and %d, want %s and %d", c.line, c.after, last, n, c.last, c.n)
		}
	}
}

func TestJitter(t *testing.T) {
	s := parse(t, Spec{Cron: "@hourly", Jitter: 10 * time.Minute})
	seen := make(map[time.Duration]bool)
	var sum time.Duration
	for i := range 200 {
		name := "nightly-" + string(rune('a'+i%26)) + string(rune('a'+i/26))
		d := s.JitterOf(name)
		if d < 0 || d >= 10*time.Minute || d != s.JitterOf(name) {
			t.Fatalf("jitter of %s is %s", name, d)
		}
		seen[d], sum = true, sum+d
	}
	if mean := sum / 200; len(seen) < 120 || mean < 4*time.Minute || mean > 6*time.Minute {
		t.Errorf("%d different jitters of 200, mean %s", len(seen), mean)
	}
	if d := parse(t, Spec{Cron: "@hourly"}).JitterOf("a"); d != 0 {
		t.Errorf("jitter %s without Jitter", d)
	}
}

func FuzzParse(f *testing.F) {
	for _, line := range []string{
		"* * * * *", "*/15 2-4,6 1,15 JAN-MAR MON-SUN", "0 0 29 2 5-7", "@every 90m", "@daily", "TZ=UTC", "CRON_TZ=", "@every -1s", "0 0 30 2 *", "5/7 ? * * 7/1", "*-5/ , */* 9 @",
	} {
		f.Add(line, "Australia/Lord_Howe", int64(1_790_000_000))
		f.Add(line, "", int64(0))
	}
	f.Fuzz(func(t *testing.T, line, zone string, unix int64) {
		s, err := Parse(Spec{Cron: line, TimeZone: zone})
		if err != nil {
			return
		}
		at := time.Unix((unix%7_258_118_400+7_258_118_400)%7_258_118_400, 999) // 1970 to 2200
		for range 5 {
			next := s.Next(at)
			if !next.After(at) {
				t.Fatalf("%q in %q: after %s comes %s", line, zone, at, next)
			}
			at = next
		}
	})
}

func TestLast(t *testing.T) {
	for _, c := range []struct{ line, at, want string }{
		{"0 3 * * *", "2026-11-23T02:59:59Z", "2026-11-22T03:00:00Z"},
		{"0 3 * * *", "2026-11-23T03:00:00Z", "2026-11-23T03:00:00Z"},
		{"* * * * *", "2026-11-23T03:00:59Z", "2026-11-23T03:00:00Z"},
		{"0 0 29 2 *", "2104-02-28T00:00:00Z", "2096-02-29T00:00:00Z"},
		{"@every 1h", "2026-11-23T03:00:00Z", ""},
	} {
		got := parse(t, Spec{Cron: c.line}).Last(stamp(t, c.at))
		if c.want == "" && !got.IsZero() || c.want != "" && !got.Equal(stamp(t, c.want)) {
			t.Errorf("%q at %s: %s, want %q", c.line, c.at, got, c.want)
		}
	}
}

func TestWindow(t *testing.T) {
	s, err := Parse(Spec{Cron: "0 22 * * *", TimeZone: "Europe/Berlin", WatchFor: 3 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	for at, want := range map[string]string{ // in UTC; 22:00 in Berlin is 20:00 in summer, 21:00 in winter
		"2026-06-01T19:59:59Z": "", "2026-06-01T20:00:00Z": "2026-06-01T20:00:00Z", "2026-06-01T22:59:59Z": "2026-06-01T20:00:00Z",
		"2026-06-01T23:00:00Z": "", "2026-12-01T20:30:00Z": "", "2026-12-01T21:00:00Z": "2026-12-01T21:00:00Z",
	} {
		tm, err := time.Parse(time.RFC3339, at)
		if err != nil {
			t.Fatal(err)
		}
		start, open := s.Window(tm)
		if got := start.UTC().Format(time.RFC3339); open != (want != "") || open && got != want {
			t.Errorf("%s: window %s, open %v, want %q", at, got, open, want)
		}
	}
	if _, err := Parse(Spec{Cron: "@every 1h", WatchFor: time.Minute}); err == nil {
		t.Error("@every with windows was accepted")
	}
	if s, err := Parse(Spec{Cron: "0 22 * * *", WatchFor: time.Hour, Suspend: true}); err != nil {
		t.Error(err)
	} else if _, open := s.Window(time.Date(2026, 6, 1, 22, 30, 0, 0, time.UTC)); open {
		t.Error("a suspended schedule has a window")
	}
}
