package config

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
)

// Size is a number of bytes, written as a Kubernetes quantity such as 64Mi.
type Size int64

// String returns the size as the file has it.
func (s Size) String() string {
	return resource.NewQuantity(int64(s), resource.BinarySI).String()
}

// Duration is a time span, written as Go does, with d for 24 hours and w for 7 days.
type Duration time.Duration

// String returns the duration as the file has it.
func (d Duration) String() string {
	const day = Duration(24 * time.Hour)
	if d != 0 && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Set makes d what text says. With Type it makes a Duration the value of a flag.
func (d *Duration) Set(text string) error {
	v, m := parseDuration(text)
	if m != nil {
		return fmt.Errorf("%s; allowed: %s", m.text, m.allowed)
	}
	*d = v
	return nil
}

// Type names what Set takes.
func (*Duration) Type() string { return "duration" }

// mistake says what is wrong with a value.
type mistake struct {
	text, allowed, hint string
	offset              int // bytes from the beginning of the value
}

const (
	sizes     = "a size such as 64Mi, 1500k or 2Gi"
	durations = "a duration such as 30s, 1h30m, 2d or 1w"
)

func parseSize(text string) (Size, *mistake) {
	if text == "0" {
		return 0, nil
	}
	if bare := strings.TrimSpace(text); isNumber(bare) {
		return 0, &mistake{text: bare + " has no unit", allowed: sizes, hint: bare + "Mi"}
	}
	q, err := resource.ParseQuantity(text)
	number := strings.TrimRight(text, "BKMGTbkmgti ")
	hint := ""
	if unit := strings.ToUpper(strings.TrimSpace(text[len(number):])); isNumber(number) && unit != "" && strings.Contains("KMGT", unit[:1]) {
		hint = number + unit[:1] + "i"
	}
	switch {
	case err != nil || strings.HasSuffix(text, "m") || strings.HasSuffix(text, "n") || strings.HasSuffix(text, "u"):
		return 0, &mistake{text: fmt.Sprintf("%q is no size", text), allowed: sizes, hint: hint}
	case q.Sign() < 0:
		return 0, &mistake{text: fmt.Sprintf("%q is negative", text), allowed: sizes}
	case q.CmpInt64(math.MaxInt64) >= 0:
		return 0, &mistake{text: fmt.Sprintf("%q is too large", text), allowed: sizes}
	}
	return Size(q.Value()), nil
}

func isNumber(s string) bool {
	_, err := strconv.ParseFloat(s, 64)
	return err == nil && strings.Trim(s, "0123456789.") == ""
}

func parseDuration(text string) (Duration, *mistake) {
	switch {
	case text == "0":
		return 0, nil
	case isNumber(text):
		return 0, &mistake{text: text + " has no unit", allowed: durations, hint: text + "s"}
	case strings.HasPrefix(text, "-"):
		return 0, &mistake{text: fmt.Sprintf("%q is negative", text), allowed: durations}
	}
	part := regexp.MustCompile(`^(\d{1,9}(?:\.\d{1,9})?)(ns|us|µs|ms|s|m|h|d|w)`)
	units := map[string]time.Duration{
		"ns": 1, "us": time.Microsecond, "µs": time.Microsecond, "ms": time.Millisecond, "s": time.Second,
		"m": time.Minute, "h": time.Hour, "d": 24 * time.Hour, "w": 7 * 24 * time.Hour,
	}
	var sum float64
	var whole time.Duration
	rest := text
	for rest != "" {
		m := part.FindStringSubmatch(rest)
		if m == nil {
			return 0, &mistake{text: fmt.Sprintf("%q is no duration", text), allowed: durations, hint: durationHint(text)}
		}
		n, _ := strconv.ParseFloat(m[1], 64)
		sum += n * float64(units[m[2]])
		if i, err := strconv.ParseInt(m[1], 10, 64); err == nil {
			whole += time.Duration(i) * units[m[2]]
		} else {
			whole += time.Duration(n * float64(units[m[2]]))
		}
		rest = rest[len(m[0]):]
	}
	if text == "" || sum > float64(100*366*24*time.Hour) {
		return 0, &mistake{text: fmt.Sprintf("%q is no duration of at most 100 years", text), allowed: durations}
	}
	return Duration(whole), nil
}

// durationHint reads what people write, such as "2 days" or "30sec".
func durationHint(text string) string {
	m := regexp.MustCompile(`(?i)^(\d{1,6})\s*(s|m|h|d|w)[a-z]*$`).FindStringSubmatch(text)
	if m == nil {
		return ""
	}
	return m[1] + strings.ToLower(m[2])
}
