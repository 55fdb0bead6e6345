package selection

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	k8sselection "k8s.io/apimachinery/pkg/selection"
)

// compiler collects the mistakes of a Spec.
type compiler struct{ problems []*Problem }

func (c *compiler) add(field string, index int, p *Problem) {
	p.Field, p.Index = field, index
	c.problems = append(c.problems, p)
}

func (c *compiler) names(field, excludeField string, include, exclude []string, dots bool) names {
	bad := false
	check := func(field string, list []string) {
		for i, p := range list {
			if problem := checkPattern(p, dots); problem != nil {
				bad = true
				c.add(field, i, problem)
			}
		}
	}
	check(field, include)
	check(excludeField, exclude)
	n := names{include, exclude}
	if bad || len(exclude) == 0 {
		return n
	}
	if i := slices.Index(exclude, "*"); i >= 0 {
		c.add(excludeField, i, &Problem{Text: "everything is excluded, so nothing is ever selected"})
		return n
	}
	left := slices.ContainsFunc(include, func(p string) bool {
		return !slices.Contains(exclude, p) && (!literal(p) || anyMatch(exclude, p) == "")
	})
	if len(include) > 0 && !left {
		c.add(excludeField, 0, &Problem{Text: "all of " + strings.Join(include, ", ") + " is excluded, so nothing is ever selected"})
	}
	return n
}

func (c *compiler) labels(text string) labels.Selector {
	if strings.TrimSpace(text) == "" {
		return nil
	}
	reqs, err := labels.ParseToRequirements(text)
	if err != nil {
		c.add("labels", 0, &Problem{Text: fmt.Sprintf("%q is no label selector: %s", text, plain(err)), Allowed: "such as app=cart, tier!=cache, env in (prod,test), canary, !canary"})
		return nil
	}
	if key := contradiction(reqs); key != "" {
		c.add("labels", 0, &Problem{Text: fmt.Sprintf("no pod can match %q: what it asks of label %s contradicts itself", text, key), Hint: hintIn(reqs, key)})
		return nil
	}
	if len(reqs) == 0 {
		return nil
	}
	return labels.NewSelector().Add(reqs...)
}

// plain takes the parts out of apimachinery's errors that speak of Go.
func plain(err error) string {
	s := strings.TrimPrefix(err.Error(), "unable to parse requirement: ")
	s = strings.TrimPrefix(s, "<nil>: ")
	return strings.Join(strings.Fields(s), " ")
}

// contradiction returns a label of which a selector asks for what cannot be.
func contradiction(reqs []labels.Requirement) string {
	allowed := make(map[string][]string)
	absent, present := make(map[string]bool), make(map[string]bool)
	for _, r := range reqs {
		switch r.Operator() {
		case k8sselection.Equals, k8sselection.DoubleEquals, k8sselection.In:
			values := r.ValuesUnsorted()
			if before, ok := allowed[r.Key()]; ok {
				values = slices.DeleteFunc(slices.Clone(before), func(v string) bool { return !slices.Contains(values, v) })
			}
			allowed[r.Key()], present[r.Key()] = values, true
		case k8sselection.Exists, k8sselection.GreaterThan, k8sselection.LessThan:
			present[r.Key()] = true
		case k8sselection.DoesNotExist:
			absent[r.Key()] = true
		}
	}
	for _, r := range reqs {
		values, limited := allowed[r.Key()]
		if limited && (r.Operator() == k8sselection.NotEquals || r.Operator() == k8sselection.NotIn) {
			values = slices.DeleteFunc(slices.Clone(values), func(v string) bool { return slices.Contains(r.ValuesUnsorted(), v) })
			allowed[r.Key()] = values
		}
		if limited && len(values) == 0 || absent[r.Key()] && present[r.Key()] {
			return r.Key()
		}
	}
	return ""
}

// hintIn suggests a set for two values of one label.
func hintIn(reqs []labels.Requirement, key string) string {
	var values []string
	for _, r := range reqs {
		if r.Key() != key || r.Operator() != k8sselection.Equals && r.Operator() != k8sselection.DoubleEquals {
			continue
		}
		values = append(values, r.ValuesUnsorted()...)
	}
	if len(values) < 2 {
		return ""
	}
	return key + " in (" + strings.Join(values, ",") + ")"
}

func (c *compiler) fields(text string) fields.Requirements {
	if strings.TrimSpace(text) == "" {
		return nil
	}
	s, err := fields.ParseSelector(text)
	if err != nil {
		c.add("fields", 0, &Problem{Text: fmt.Sprintf("%q is no field selector: %s", text, plain(err)), Allowed: "such as spec.nodeName=node-1,status.phase!=Succeeded"})
		return nil
	}
	values := make(map[string]string)
	for _, r := range s.Requirements() {
		if !slices.Contains(FieldNames(), r.Field) {
			p := &Problem{
				Text: fmt.Sprintf("%q is no field that runs can be selected by", r.Field), Offset: max(0, strings.Index(text, r.Field)),
				Allowed: "one of " + strings.Join(FieldNames(), ", "), Hint: Nearest(r.Field, FieldNames()),
			}
			if strings.HasPrefix(r.Field, "metadata.labels") {
				p.Hint = "the key labels"
			}
			c.add("fields", 0, p)
			continue
		}
		if before, ok := values[r.Field]; equal(r) && ok && before != r.Value {
			c.add("fields", 0, &Problem{Text: fmt.Sprintf("no pod can match: %s cannot be %s and %s", r.Field, before, r.Value)})
		}
		if equal(r) {
			values[r.Field] = r.Value
		}
		phases := []string{"Pending", "Running", "Succeeded", "Failed", "Unknown"}
		if r.Field == "status.phase" && !slices.Contains(phases, r.Value) {
			c.add("fields", 0, &Problem{Text: fmt.Sprintf("%q is no phase of a pod", r.Value), Allowed: "one of " + strings.Join(phases, ", "), Hint: Nearest(r.Value, phases)})
		}
	}
	return s.Requirements()
}

// ownerKinds refuses kinds that never own a pod: Kubernetes puts another object between.
func (c *compiler) ownerKinds(kinds []string) {
	between := map[string]string{"Deployment": "ReplicaSet", "CronJob": "Job"}
	common := []string{"ReplicaSet", "StatefulSet", "DaemonSet", "Job", "ReplicationController", "Node", NoOwner}
	for i, kind := range kinds {
		switch direct := between[kind]; {
		case direct != "":
			c.add("ownerKinds", i, &Problem{Text: fmt.Sprintf("a %s owns no pods itself", kind), Allowed: "the kind of the pod's own controller", Hint: direct})
		case kind == "" || kind[0] < 'A' || kind[0] > 'Z' || strings.ContainsAny(kind, " */."):
			c.add("ownerKinds", i, &Problem{Text: fmt.Sprintf("%q is no kind", kind), Allowed: "such as " + strings.Join(common, ", "), Hint: Nearest(kind, common)})
		}
	}
}

// Nearest returns which of the words was likely meant, "" for none.
func Nearest(word string, words []string) string {
	var longer []string
	for _, w := range words {
		if len(word) >= 3 && len(w) > len(word) && strings.EqualFold(w[:len(word)], word) {
			longer = append(longer, w)
		}
	}
	if len(longer) == 1 {
		return longer[0]
	}
	best, most := "", max(1, min(3, len(word)/2))
	for _, w := range words {
		if d := distance(strings.ToLower(word), strings.ToLower(w), most); d <= most && (best == "" || d < most) {
			best, most = w, d
		}
	}
	return best
}

// distance is how many letters must be put in, taken out, replaced or swapped; more than most is most+1.
func distance(a, b string, most int) int {
	if len(a)-len(b) > most || len(b)-len(a) > most {
		return most + 1
	}
	rows := [3][]int{make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)}
	for j := range rows[1] {
		rows[1][j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, above, row := rows[0], rows[1], rows[2]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(above[j]+1, row[j-1]+1, above[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		rows = [3][]int{above, row, before}
	}
	return rows[1][len(b)]
}
