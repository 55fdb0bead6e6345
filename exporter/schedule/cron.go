package schedule

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

const (
	// minEvery keeps a slip such as "@every 5ms" from becoming a loop; robfig/cron takes even negative
	// durations and makes them one second.
	minEvery = 10 * time.Second
	// maxEvery is far from what overflows a time.Duration.
	maxEvery = 366 * 24 * time.Hour
	// maxLine is more than a sensible line needs.
	maxLine = 1024
)

// field is one of the five of a line, with what it may hold.
type field struct {
	name     string
	min, max int
	names    []string // of the values from min on
}

func fields() [5]field {
	return [5]field{
		{name: "minute", max: 59},
		{name: "hour", max: 23},
		{name: "day of month", min: 1, max: 31},
		{name: "month", min: 1, max: 12, names: []string{"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}},
		{name: "day of week", max: 7, names: []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}},
	}
}

// loadZone finds a zone of the IANA database.
func loadZone(name string) (*time.Location, error) {
	switch name {
	case "":
		return time.UTC, nil
	case "Local": // the zone of whatever machine the leader runs on
		return nil, errors.New(`timeZone "Local" is not the same everywhere: name a zone such as Europe/Berlin or UTC`)
	}
	loc, err := time.LoadLocation(name)
	if err != nil {
		return nil, fmt.Errorf("timeZone %q is not known: name a zone of the IANA database such as Europe/Berlin or UTC", name)
	}
	return loc, nil
}

// parsed is a line that was taken apart: either every or spec is set.
type parsed struct {
	every    *cron.ConstantDelaySchedule
	spec     *cron.SpecSchedule // in UTC, which stands for the clock on the wall, see Schedule.Next
	interval bool               // the line goes on in a gap and an overlap, see the package's documentation
}

// parseLine guards robfig/cron's parser, which panics on some lines and takes others that never match.
func parseLine(line string) (p parsed, err error) {
	defer func() {
		if r := recover(); r != nil { // none is known that comes so far
			p, err = parsed{}, fmt.Errorf("schedule %q cannot be read: %v", line, r)
		}
	}()
	trimmed := strings.TrimSpace(line)
	switch {
	case trimmed == "":
		return p, errors.New(`schedule is empty: write five fields such as "0 3 * * *", or @daily`)
	case len(trimmed) > maxLine:
		return p, fmt.Errorf("schedule is longer than %d characters", maxLine)
	case strings.HasPrefix(trimmed, "TZ=") || strings.HasPrefix(trimmed, "CRON_TZ="):
		return p, fmt.Errorf("schedule %q: no zone in the line, set timeZone instead", line)
	case strings.HasPrefix(trimmed, "@every"):
		return parseEvery(trimmed)
	case strings.HasPrefix(trimmed, "@"):
		return parseDescriptor(trimmed)
	}
	rewritten, err := rewrite(trimmed)
	if err != nil {
		return p, fmt.Errorf("schedule %q: %w", line, err)
	}
	return parseSpec(line, rewritten)
}

func parseSpec(line, rewritten string) (parsed, error) {
	s, err := cron.ParseStandard(rewritten)
	if err != nil {
		return parsed{}, fmt.Errorf("schedule %q: %w", line, err)
	}
	spec, ok := s.(*cron.SpecSchedule)
	if !ok {
		return parsed{}, fmt.Errorf("schedule %q cannot be read", line)
	}
	spec.Location = time.UTC
	const allHours = 1<<24 - 1
	p := parsed{spec: spec, interval: spec.Hour&allHours == allHours}
	if f := strings.Fields(rewritten); len(f) == 5 && strings.ContainsRune("*?", rune(f[1][0])) {
		p.interval = true
	}
	return p, nil
}

func parseEvery(line string) (parsed, error) {
	text := strings.TrimSpace(strings.TrimPrefix(line, "@every"))
	d, err := time.ParseDuration(text)
	switch {
	case err != nil || !strings.HasPrefix(line, "@every "):
		return parsed{}, fmt.Errorf(`schedule %q: write a duration such as "@every 90m"`, line)
	case d < minEvery:
		return parsed{}, fmt.Errorf("schedule %q: %s is shorter than the least, %s", line, d, minEvery)
	case d > maxEvery:
		return parsed{}, fmt.Errorf("schedule %q: %s is longer than the most, %s", line, d, maxEvery)
	case d%time.Second != 0:
		return parsed{}, fmt.Errorf("schedule %q: write whole seconds", line)
	}
	every := cron.Every(d)
	return parsed{every: &every}, nil
}

func parseDescriptor(line string) (parsed, error) {
	switch line {
	case "@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly":
		return parseSpec(line, line)
	case "@reboot":
		return parsed{}, errors.New("schedule @reboot is not supported: what ended while the program was down is found at its start anyway")
	}
	return parsed{}, fmt.Errorf(`schedule %q is none of @yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly, "@every 1h30m"`, line)
}

// rewrite checks a line of five fields and puts it in the words that robfig/cron knows: Sunday as 7,
// or as the end of a range, becomes a list of days.
func rewrite(line string) (string, error) {
	parts := strings.Fields(line)
	if len(parts) != 5 {
		hint := ""
		if len(parts) == 6 {
			hint = "; there is no field for seconds"
		}
		return "", fmt.Errorf("it has %d fields, not 5: minute, hour, day of month, month, day of week%s", len(parts), hint)
	}
	for i, f := range fields() {
		items := strings.Split(parts[i], ",")
		for k, item := range items {
			r, err := f.parse(item)
			if err != nil {
				return "", fmt.Errorf("%s %q: %w", f.name, parts[i], err)
			}
			if i == 4 && !r.star && r.to == 7 {
				items[k] = r.days()
			}
		}
		parts[i] = strings.Join(items, ",")
	}
	return strings.Join(parts, " "), nil
}

// span is one item of a field's list: a range with a step.
type span struct {
	from, to, step int
	star           bool
}

// days lists the days of a range that may end with 7.
func (s span) days() string {
	var days []string
	for d := s.from; d <= s.to; d += s.step {
		days = append(days, strconv.Itoa(d%7))
	}
	return strings.Join(days, ",")
}

// parse takes "*", "5", "1-5", "*/15", "1-5/2" or "5/10", which means from 5 to the end.
func (f field) parse(item string) (span, error) {
	rng, step, stepped := strings.Cut(item, "/")
	s := span{step: 1}
	from, to, ranged := strings.Cut(rng, "-")
	switch {
	case item == "":
		return s, errors.New("an item of the list is empty")
	case rng == "*" || rng == "?":
		s.star, s.from, s.to = true, f.min, f.max
		if f.max == 7 {
			s.to = 6
		}
	default:
		var err error
		if s.from, err = f.value(from); err != nil {
			return s, err
		}
		s.to = s.from
		if ranged {
			if s.to, err = f.value(to); err != nil {
				return s, err
			}
			if f.max == 7 && s.to == 0 && s.from > 0 { // FRI-SUN
				s.to = 7
			}
		} else if stepped && s.from < f.max {
			s.to = f.max
			if f.max == 7 {
				s.to = 6
			}
		}
	}
	if s.from > s.to {
		return s, fmt.Errorf("the range ends before it begins: write it as two, such as %d-%d,%d-%d", s.from, f.max, f.min, s.to)
	}
	if stepped {
		return s, f.step(&s, step)
	}
	return s, nil
}

// step refuses steps that leave one value only. "*/90" in the minutes would run every hour, which is
// surely not what is meant, and a line is checked long before it is needed.
func (f field) step(s *span, text string) error {
	n, err := number(text)
	switch {
	case err != nil || n == 0:
		return fmt.Errorf("the step %q is not a positive number", text)
	case n > 1 && n > s.to-s.from:
		hint := ""
		if f.name == "minute" || f.name == "hour" {
			unit := map[string]string{"minute": "m", "hour": "h"}[f.name]
			hint = fmt.Sprintf(`; for every %d%s write "@every %d%s"`, n, unit, n, unit)
		}
		return fmt.Errorf("the step %d is larger than the range %d-%d, so it would match %d only%s", n, s.from, s.to, s.from, hint)
	}
	s.step = n
	return nil
}

func (f field) value(text string) (int, error) {
	for i, name := range f.names {
		if strings.EqualFold(text, name) {
			return f.min + i, nil
		}
	}
	n, err := number(text)
	if err != nil {
		if f.names != nil {
			return 0, fmt.Errorf("%q is neither a number nor a name such as %s", text, strings.ToUpper(f.names[1]))
		}
		return 0, fmt.Errorf("%q is not a number", text)
	}
	if n < f.min || n > f.max {
		return 0, fmt.Errorf("%d is not within %d-%d", n, f.min, f.max)
	}
	return n, nil
}

// number reads digits; strconv.Atoi would take a sign.
func number(text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	return int(n), err
}
