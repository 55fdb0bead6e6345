package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/kubelogexporter/kubelogexporter/exporter/config"
	"github.com/kubelogexporter/kubelogexporter/exporter/redact"
	"github.com/kubelogexporter/kubelogexporter/exporter/schedule"
	"github.com/kubelogexporter/kubelogexporter/exporter/selection"
)

// faulty begins the message about a panic.
const faulty = "the file cannot be checked, through a fault of this program"

const head = "apiVersion: kubelogexporter.dev/v1alpha1\nkind: Config\n"

func environment(kv ...string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for i := 0; i < len(kv); i += 2 {
			if kv[i] == name {
				return kv[i+1], true
			}
		}
		return "", false
	}
}

func parse(t testing.TB, text string, o config.Options) *config.Config {
	t.Helper()
	c, err := config.Parse([]byte(text), o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Ten different mistakes and more give as many messages, each with its place.
func TestEveryMistakeAtOnce(t *testing.T) {
	text, err := os.ReadFile("testdata/ten.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, err = config.Parse(text, config.Options{})
	var errs config.Errors
	if !errors.As(err, &errs) {
		t.Fatal(err)
	}
	type place struct {
		Line, Column int
		Path         string
	}
	var got []place
	for _, e := range errs {
		got = append(got, place{e.Line, e.Column, e.Path})
	}
	want := []place{
		{1, 13, "apiVersion"}, {3, 10, "cluster"}, {7, 5, "sink.s3"}, {8, 5, "sink.s3"}, {10, 12, "spool.maxSize"}, {12, 10, "limits.grace"},
		{16, 29, "exports[0].selection.namespaces[1]"}, {17, 15, "exports[0].selection.labels"}, {18, 19, "exports[0].selection.expression"},
		{20, 13, "exports[0].schedule.cron"}, {21, 17, "exports[0].schedule.timeZone"}, {22, 11, "exports[1].name"}, {23, 14, "exports[1].capture"}, {24, 5, "exports[1]"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Error("a secret is shown")
	}
}

func TestDefaults(t *testing.T) {
	c, err := config.Default(config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	same := parse(t, head, config.Options{})
	if diff := cmp.Diff(c, same, cmpopts.IgnoreFields(config.Config{}, "origins"), cmp.AllowUnexported(config.Config{}), cmp.AllowUnexported(selection.Selection{}), cmpopts.IgnoreTypes(&selection.Selection{})); diff != "" {
		t.Error(diff)
	}
	e := c.Exports[0]
	if len(c.Exports) != 1 || e.Name != "all" || e.Capture != "final" || e.Compression != "zstd" || !e.Compiled.Everything() || e.Schedule != nil || e.Redact != nil {
		t.Errorf("%+v", e)
	}
	if c.Sink.Dir != "./kubelogs" || c.Limits.Grace != config.Duration(20*time.Second) || c.Kubelets.ContainerLogMaxSize != 1<<20 || c.Limits.Follows != 2048 {
		t.Errorf("%+v", c)
	}
	if len(c.Selections()) != 1 || c.Origin("limits.grace") != "default" {
		t.Error(c.Selections(), c.Origin("limits.grace"))
	}
}

func TestPrecedence(t *testing.T) {
	const text = head + `cluster: file
sink: {s3: {bucket: from-file, region: file, endpoint: "http://file"}}
exports:
- {name: a, capture: live}
- {name: b}
`
	c := parse(t, text, config.Options{
		File:   "c.yaml",
		Lookup: environment("KUBELOGEXPORTER_CLUSTER", "env", "KUBELOGEXPORTER_S3_REGION", "env", "KUBELOGEXPORTER_GRACE", "1m", "KUBELOGEXPORTER_LOG_LEVEL", ""),
		Flags:  map[string]string{"cluster": "flag", "capture": "final", "follows-per-node": "7"},
	})
	for path, want := range map[string]struct{ value, origin string }{
		"cluster":            {c.Cluster, "flag=flag --cluster"},
		"sink.s3.region":     {c.Sink.S3.Region, "env=environment variable KUBELOGEXPORTER_S3_REGION"},
		"sink.s3.endpoint":   {c.Sink.S3.Endpoint, "http://file=c.yaml:4"},
		"limits.grace":       {c.Limits.Grace.String(), "1m=environment variable KUBELOGEXPORTER_GRACE"},
		"log.level":          {c.Log.Level, "info=default"},
		"exports[0].capture": {c.Exports[0].Capture, "final=flag --capture"},
		"exports[1].capture": {c.Exports[1].Capture, "final=flag --capture"},
	} {
		if got := want.value + "=" + c.Origin(path); got != want.origin {
			t.Errorf("%s: %s, want %s", path, got, want.origin)
		}
	}
	if c.Limits.FollowsPerNode != 7 {
		t.Error(c.Limits)
	}
	for flag, want := range map[string]config.Sink{
		"dir:/x":         {Dir: "/x"},
		"./x":            {Dir: "./x"},
		"file:///x":      {Dir: "/x"},
		"s3://other/p/q": {S3: &config.S3{Bucket: "other", Prefix: "p/q", Region: "file", Endpoint: "http://file", PathStyle: "auto", Credentials: "auto"}},
	} {
		c := parse(t, text, config.Options{Flags: map[string]string{"sink": flag}})
		if diff := cmp.Diff(want, c.Sink); diff != "" {
			t.Errorf("%s: %s", flag, diff)
		}
	}
	c, err := config.Default(config.Options{Lookup: environment("KUBELOGEXPORTER_SINK", "s3://abc", "KUBELOGEXPORTER_S3_REGION", "r")})
	if err != nil || c.Sink.S3 == nil || c.Sink.S3.Region != "r" || c.Sink.Dir != "" {
		t.Error(c, err)
	}
	_, err = config.Parse([]byte(text), config.Options{
		Lookup: environment("KUBELOGEXPORTER_LISTEN", "8080"),
		Flags:  map[string]string{"sink": "s3://key:hunter2@b", "capture": "soon", "grace": "x"},
	})
	for _, want := range []string{"flag --sink: ", "flag --capture: \"soon\" is none of these; allowed: final, live", "flag --grace: ", "environment variable KUBELOGEXPORTER_LISTEN: "} {
		if err == nil || strings.Count(err.Error(), want) != 1 || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v, want %q once", err, want)
		}
	}
}

func TestEnvironmentReferences(t *testing.T) {
	env := environment("NAME", "prod", "EMPTY", "", "LINES", "a\nb", "SECRET", "hunter2 hunter2")
	for _, c := range []struct{ value, want string }{
		{"${NAME}", "prod"},
		{"x-${NAME}-${EMPTY:-y}${MISSING:-z}", "x-prod-yz"},
		{"${NAME:?must be there}", "prod"},
		{"'${EMPTY}'", ""},
		{"${MISSING}", "! environment variable MISSING is not set"},
		{"${EMPTY:?say which}", "! say which"},
		{"$NAME", "! begins no environment reference"},
		{"${NAME", "! begins no environment reference"},
		{"a$$b", "! is not valid"},
		{"${LINES}", "! holds a line break"},
		{"${SECRET}", "! is not valid"},
		{"${NAME:-a b}", "prod"},
	} {
		got, err := config.Parse([]byte(head+"cluster: "+c.value+"\n"), config.Options{Lookup: env})
		want, bad := strings.CutPrefix(c.want, "! ")
		switch {
		case bad && (err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2")):
			t.Errorf("%s: %v, want %s", c.value, err, want)
		case !bad && (err != nil || got.Cluster != want):
			t.Errorf("%s: %v %v, want %s", c.value, got, err, want)
		}
	}
	c := parse(t, head+"sink: {dir: /a$$b}\nexports: [{name: a, redact: {rules: [{name: r, pattern: 'a\\${b}$', replace: '${x}'}]}}]", config.Options{})
	if c.Sink.Dir != "/a$b" || c.Exports[0].Redact.Rules[0].Pattern != `a\${b}$` {
		t.Errorf("%+v", c)
	}
}

func TestUnits(t *testing.T) {
	for text, want := range map[string]config.Size{"64Mi": 64 << 20, "0": 0, "1Gi": 1 << 30, "2G": 2e9, "1.5Gi": 3 << 29, "128Ki": 128 << 10} {
		c := parse(t, head+"spool: {minFree: "+text+"}", config.Options{})
		if c.Spool.MinFree != want {
			t.Errorf("%s: %d", text, c.Spool.MinFree)
		}
	}
	for text, want := range map[string]string{"10": "10Mi", "64MB": "64Mi", "64m": "64Mi", "64mib": "64Mi", "-1Gi": "", "1e30Gi": "", "99999999999Ti": "", "x": "", "1.5": "1.5Mi", "7 Gi": "7Gi", `"7 "`: "7Mi", `" "`: ""} {
		_, err := config.Parse([]byte(head+"spool: {minFree: "+text+"}"), config.Options{})
		if err == nil || want != "" && !strings.Contains(err.Error(), "did you mean "+want+"?") || !strings.Contains(err.Error(), "size such as") {
			t.Errorf("%s: %v", text, err)
		}
	}
	for text, want := range map[string]time.Duration{"2h": 2 * time.Hour, "1h30m": 90 * time.Minute, "1d12h": 36 * time.Hour, "1w": 7 * 24 * time.Hour, "1.5h": 90 * time.Minute, "0": 0, "0s": 0} {
		c := parse(t, head+"exports: [{name: a, schedule: {cron: '@daily'}, watchFor: "+text+"}]", config.Options{})
		if time.Duration(c.Exports[0].WatchFor) != want {
			t.Errorf("%s: %s", text, c.Exports[0].WatchFor)
		}
	}
	for text, want := range map[string]string{"20": "20s", "2 days": "2d", "30min": "30m", "-5m": "", "1h2": "", "999999999w": "", "soon": "", "h": ""} {
		_, err := config.Parse([]byte(head+"exports: [{name: a, schedule: {cron: '@daily'}, watchFor: "+text+"}]"), config.Options{})
		if err == nil || want != "" && !strings.Contains(err.Error(), "did you mean "+want+"?") {
			t.Errorf("%s: %v", text, err)
		}
	}
	for d, want := range map[time.Duration]string{0: "0s", 90 * time.Minute: "1h30m", 2 * time.Hour: "2h", 48 * time.Hour: "2d", 90 * time.Second: "1m30s", 20 * time.Minute: "20m"} {
		if got := config.Duration(d).String(); got != want {
			t.Errorf("%s is printed as %s", want, got)
		}
	}
}

// A fault of a check is told like a mistake: a file must never end an exporter that reads it while it runs.
func TestFaultOfACheck(t *testing.T) {
	_, err := config.Parse([]byte(head+"exports: [{name: a, schedule: {cron: '@daily'}}]"), config.Options{
		CheckSchedule: func(*config.Schedule, config.Duration) error { panic("no such field") },
	})
	var errs config.Errors
	if !errors.As(err, &errs) || !strings.Contains(err.Error(), faulty) || !strings.Contains(err.Error(), "no such field") {
		t.Error(err)
	}
}

// Helm and others make a boolean of off.
func TestOnAndOff(t *testing.T) {
	for text, want := range map[string]string{"kubelets: {nodeLogs: false}": `did you mean "off"?`, "sink: {s3: {bucket: abc, pathStyle: true}}": `did you mean "on"?`} {
		if _, err := config.Parse([]byte(head+text), config.Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	printed, err := parse(t, head+"kubelets: {nodeLogs: off}", config.Options{}).Print(false)
	if err != nil || !strings.Contains(string(printed), `nodeLogs: "off"`) {
		t.Errorf("%s %v", printed, err)
	}
}

// What others check is told at its place, each error for itself.
func TestHooks(t *testing.T) {
	const text = head + `exports:
- name: a
  schedule: {cron: "61 * * * *", jitter: 5m}
  redact:
    builtin: [jwtt]
- name: b
  redact:
    rules: [{name: mine-too, pattern: b+, replace: x}, {name: mine, pattern: a+}]
`
	_, err := config.Parse([]byte(text), config.Options{
		Redactions: []string{"jwt", "basic"},
		CheckSchedule: func(s *config.Schedule, _ config.Duration) error {
			if s.TimeZone != "UTC" {
				t.Error(s)
			}
			return errors.Join(errors.New("minute 61 is too large"), errors.New("jitter 5m is too long"))
		},
		CheckRedaction: func(r *config.Redaction) error {
			var errs []error
			for _, rule := range r.Rules {
				switch {
				case rule.Name == "mine":
					errs = append(errs, errors.New("rule mine, unlike mine-too: too slow"))
				case rule.Replace != "":
					errs = append(errs, errors.New("a replacement is too long"))
				}
			}
			return errors.Join(errs...)
		},
	})
	var errs config.Errors
	if !errors.As(err, &errs) || len(errs) != 5 {
		t.Fatal(err)
	}
	for i, want := range []string{"config:5:20: exports[0].schedule.cron: minute 61", "config:5:42: exports[0].schedule.jitter: jitter", "config:7:15: exports[0].redact.builtin[0]: there is no built-in rule \"jwtt\"; allowed: jwt, basic; did you mean jwt?", "config:10:52: exports[1].redact.rules[0].replace: a replacement", "config:10:78: exports[1].redact.rules[1].pattern: rule mine"} {
		if !strings.HasPrefix(errs[i].Error(), want) {
			t.Errorf("%s, want %s", errs[i], want)
		}
	}
}

func TestAliases(t *testing.T) {
	c := parse(t, head+"exports:\n- {name: a, selection: &s {labels: a=b}}\n- {name: b, selection: *s}\n", config.Options{})
	if c.Exports[1].Selection.Labels != "a=b" || len(c.Warnings) != 1 {
		t.Errorf("%+v", c)
	}
	bomb := "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
	for i := range 8 {
		n := string(rune('0' + i))
		m := string(rune('1' + i))
		bomb += "a" + m + ": &a" + m + " [" + strings.Repeat("*a"+n+",", 9) + "*a" + n + "]\n"
	}
	if _, err := config.Parse([]byte(head+bomb+"exports: *a8\n"), config.Options{}); err == nil {
		t.Error("a bomb of aliases is accepted")
	}
	began := time.Now()
	wide := "rules: &r [" + strings.Repeat("*x,", 999) + "*x]\n"
	text := head + "x: &x {name: a, pattern: a+}\n" + wide + "e: &e {name: a, selection: {expression: 'container.exitCode != 0'}, redact: {rules: *r}}\nexports: [" + strings.Repeat("*e,", 900) + "*e]\n"
	if _, err := config.Parse([]byte(text), config.Options{}); err == nil || !strings.Contains(err.Error(), "values, perhaps through aliases") {
		t.Errorf("a million rules are accepted: %.300v", err)
	}
	text = head + "exports: [&e {name: a}" + strings.Repeat(",*e", 2000) + "]\n"
	if _, err := config.Parse([]byte(text), config.Options{}); err == nil || !strings.Contains(err.Error(), "1000 at most") {
		t.Errorf("2,001 exports are accepted: %.300v", err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %s to refuse them", took)
	}
	if _, err := config.Parse([]byte(head+"sink: &s {s3: *s}\n"), config.Options{}); err == nil {
		t.Error("an alias of itself is accepted")
	}
}

// examples are those that users are shown, and what init writes.
func examples(t testing.TB) map[string]string {
	t.Helper()
	files, err := filepath.Glob("../../deploy/examples/*.yaml")
	files = append(files, "../../deploy/config-file/config.yaml")
	if err != nil || len(files) < 6 {
		t.Fatal(files, err)
	}
	all := map[string]string{"init": string(config.Init())}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all[filepath.Base(file)] = string(text)
	}
	return all
}

func TestExamples(t *testing.T) {
	for name, text := range examples(t) {
		c, err := config.Parse([]byte(text), config.Options{})
		if err != nil || len(c.Warnings) > 0 {
			t.Errorf("%s: %v %v", name, err, c)
		}
		if !strings.HasPrefix(text, "# yaml-language-server: $schema=") {
			t.Errorf("%s does not tell editors its schema", name)
		}
	}
}

// What is printed says the same.
func TestPrint(t *testing.T) {
	texts := examples(t)
	texts["odd"] = head + `sink: {dir: "/a$$b"}
exports: [{name: "5", selection: {pods: ["1*", "007"], labels: "a in (b,c)"}, redact: {builtin: none}}, {name: b, redact: {builtin: [jwt]}}]
`
	for name, text := range texts {
		c := parse(t, text, config.Options{})
		for _, origins := range []bool{false, true} {
			printed, err := c.Print(origins)
			if err != nil {
				t.Fatal(err)
			}
			again := parse(t, string(printed), config.Options{})
			ignore := cmp.Options{cmpopts.IgnoreFields(config.Config{}, "origins", "Warnings"), cmpopts.IgnoreTypes(&selection.Selection{})}
			if diff := cmp.Diff(c, again, ignore); diff != "" {
				t.Errorf("%s: %s\n%s", name, diff, printed)
			}
			if origins != strings.Contains(string(printed), "# default") {
				t.Errorf("%s: origins %t:\n%s", name, origins, printed)
			}
		}
	}
	c := parse(t, head+"notifications: {cloudEvents: {sink: 'http://x/y?token=hunter2'}}", config.Options{})
	if printed, _ := c.Print(false); strings.Contains(string(printed), "hunter2") || !strings.Contains(string(printed), "REDACTED") {
		t.Errorf("%s", printed)
	}
}

// Every key has a meaning, and its own default is allowed.
func TestKeysAreDescribed(t *testing.T) {
	reference := string(config.Reference())
	for flag, path := range config.Flags() {
		key := path[strings.LastIndexByte(path, '.')+1:]
		if flag != "sink" && !strings.Contains(reference, "| `"+key+"` |") {
			t.Errorf("no word about %s", path)
		}
	}
	if strings.Contains(reference, "|  |") {
		t.Error("a key without a description")
	}
	var all func(typ reflect.Type)
	all = func(typ reflect.Type) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			if f.Tag.Get("key") == "" {
				continue
			}
			if doc := f.Tag.Get("doc"); !strings.HasSuffix(doc, ".") {
				t.Errorf("%s.%s: %q is no sentence", typ.Name(), f.Name, doc)
			}
			sub := f.Type
			for sub.Kind() == reflect.Pointer || sub.Kind() == reflect.Slice {
				sub = sub.Elem()
			}
			if sub.Kind() == reflect.Struct && sub != reflect.TypeFor[config.Builtin]() {
				all(sub)
			}
		}
	}
	all(reflect.TypeFor[config.Config]())
}

func TestLoad(t *testing.T) {
	if _, err := config.Load(filepath.Join(t.TempDir(), "x"), config.Options{}); err == nil || !strings.Contains(err.Error(), "there is no file") {
		t.Error(err)
	}
	file := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(file, []byte(head+"cluster: A B\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Load(file, config.Options{}); err == nil || !strings.HasPrefix(err.Error(), file+":3:10: ") {
		t.Error(err)
	}
}

// Whatever stands in a file, reading it ends, and every mistake has a place that exists.
func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.yaml")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	for _, text := range examples(f) {
		f.Add(text)
	}
	f.Add(head + `spool: {maxSize: "4 "}`)
	f.Fuzz(func(t *testing.T, text string) {
		slow := time.AfterFunc(5*time.Second, func() { panic("this takes too long:\n" + text) })
		defer slow.Stop()
		c, err := config.Parse([]byte(text), config.Options{
			Lookup: environment("A", "b"),
			CheckSchedule: func(s *config.Schedule, watchFor config.Duration) error {
				_, err := schedule.Parse(schedule.Spec{Cron: s.Cron, TimeZone: s.TimeZone, Jitter: time.Duration(s.Jitter), WatchFor: time.Duration(watchFor)})
				return err
			},
			CheckRedaction: func(r *config.Redaction) error {
				var rules []redact.Rule
				for _, rule := range r.Rules {
					rules = append(rules, redact.Rule{Name: rule.Name, Pattern: rule.Pattern, Replacement: rule.Replace})
				}
				_, err := redact.New(rules)
				return err
			},
		})
		var errs config.Errors
		if err != nil && (!errors.As(err, &errs) || len(errs) == 0 || c != nil || strings.Contains(err.Error(), faulty)) {
			t.Fatal(c, err)
		}
		lines := 1
		for _, br := range []string{"\n", "\r", "\u0085", "\u2028", "\u2029"} {
			lines += strings.Count(text, br)
		}
		for i, e := range errs {
			if e.Line < 0 || e.Line > lines || e.Line > 0 && e.Column < 1 || e.Message == "" || strings.ContainsAny(e.Error(), "\n\x1b") {
				t.Errorf("%+v", e)
			}
			if i > 0 && e.Line < errs[i-1].Line {
				t.Error("not in the order of their places")
			}
		}
		if err != nil {
			return
		}
		printed, err := c.Print(true)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := config.Parse(printed, config.Options{}); err != nil {
			t.Fatalf("what was printed is no config: %v\n%s", err, printed)
		}
	})
}
