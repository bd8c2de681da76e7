package noharm

import (
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/sturdyhttp/sturdy/sturdytest"
)

const (
	ms     = time.Millisecond
	second = time.Second
)

// rows are the scenarios of the table.
func rows() []scenario {
	return slices.Concat(outageRows(), lonelyRows(), periodicRows(), momentRows(), randomRows(), limitRows(), otherRows())
}

// away is a server that is away for a while, and callers each of whom calls
// each 250ms.
func away(k kind, lasts time.Duration, callers int, deadline time.Duration, m method) scenario {
	s := scenario{
		name:    fmt.Sprintf("%s for %v, callers: %d", k, lasts, callers),
		faults:  []fault{outage(k, second, second+lasts)},
		callers: callers, every: 250 * ms, lasts: second + lasts + max(2*second, lasts/3),
		deadline: deadline, method: m,
	}
	switch m {
	case keyed:
		s.name += ", POST"
	case keyless:
		s.name += ", POST without a key"
		s.careless = k != refused
	}
	if deadline > 0 {
		s.name += fmt.Sprintf(", deadline %v", deadline)
	}
	return s
}

func outageRows() []scenario {
	all := []scenario{
		away(down, second/2, 20, 0, get), away(down, second/2, 20, 30*second, get),
		away(down, second, 20, 0, get), away(down, second, 20, 30*second, get),
		away(down, 10*second, 20, 0, get), away(down, 10*second, 20, 30*second, get),
		away(refused, 9*second, 12, 0, get), away(reset, 9*second, 12, 30*second, keyed),
		away(down, 9*second, 40, 0, get), away(refused, 9*second, 40, 30*second, get),
	}
	all[4].lasts = 40 * second
	for i := range all {
		all[i].whole = true
	}
	return append(all,
		away(refused, 300*ms, 1, 0, get), away(reset, 300*ms, 12, 0, keyed), away(down, 300*ms, 64, 0, get), away(hang, 300*ms, 40, 5*second, get),
		away(refused, 500*ms, 40, 0, keyed), away(reset, 500*ms, 1, 5*second, get), away(hang, 500*ms, 20, 0, keyed),
		away(reset, second, 64, 0, get), away(refused, second, 12, 5*second, get), away(hang, second, 1, 10*second, get), away(foreign, second, 20, 0, get),
		away(refused, 3*second, 20, 0, get), away(reset, 3*second, 1, 0, get), away(down, 3*second, 12, 5*second, get),
		away(hang, 3*second, 64, 0, get), away(down, 3*second, 1, 5*second, keyed), away(refused, 3*second, 64, 10*second, get),
		away(refused, 3*second, 20, 0, keyless), away(down, 3*second, 20, 0, keyless), away(reset, 3*second, 20, 10*second, keyless),
		away("500", 3*second, 12, 0, get), away("502", 3*second, 12, 10*second, get), away("504", 9*second, 12, 0, keyed),
		away(hang, 9*second, 20, 30*second, get), away(down, 9*second, 20, 5*second, get), away(foreign, 9*second, 5, 0, get),
		away(reset, 10*second, 40, 0, get), away(hang, 10*second, 12, 0, keyed), away(refused, 10*second, 20, 10*second, get),
		away(refused, 20*second, 12, 30*second, keyed), away(reset, 20*second, 20, 60*second, get), away(down, 20*second, 12, 0, get),
		away(hang, 20*second, 40, 30*second, get), away(down, 20*second, 20, 10*second, get),
		away(named, 3*second, 12, 0, get), away(named, 9*second, 20, 30*second, get), away(named, 9*second, 20, 10*second, get),
	)
}

// lonelyRows have a lone caller, who is also the probe.
func lonelyRows() []scenario {
	all := []scenario{
		away(refused, 12*second, 1, 0, get), away(down, 12*second, 1, 0, keyed),
		away(refused, 12*second, 1, 30*second, get), away(reset, 12*second, 1, 60*second, get), away(down, 12*second, 1, 30*second, keyed),
	}
	for i := range all {
		all[i].whole, all[i].alone = true, true
	}
	return append(all,
		away(refused, 9*second, 1, 0, get), away(down, 9*second, 1, 10*second, get), away(down, 10*second, 1, 30*second, get),
		away(down, 20*second, 1, 0, get), away(refused, 20*second, 1, 60*second, get), away(hang, 20*second, 1, 30*second, get),
	)
}

func periodicRows() []scenario {
	return []scenario{{
		name:    "503 for 7s of each 20s, 25 calls a second, deadline 1m0s",
		faults:  []fault{outages(down, 7*second, 20*second)},
		callers: 1, every: 40 * ms, lasts: 240 * second, open: true, deadline: 60 * second, whole: true,
	}, {
		name:    "refused for 4s of each 10s, 25 calls a second",
		faults:  []fault{outages(refused, 4*second, 10*second)},
		callers: 1, every: 40 * ms, lasts: 60 * second, open: true,
	}, {
		name:    "reset for 2s of each 5s, callers: 12, deadline 30s",
		faults:  []fault{outages(reset, 2*second, 5*second)},
		callers: 12, every: 250 * ms, lasts: 40 * second, deadline: 30 * second,
	}}
}

func momentRows() (all []scenario) {
	for _, callers := range []int{15, 40, 50, 64} {
		all = append(all, scenario{
			name:    fmt.Sprintf("all in flight in a moment of 60ms fail, callers: %d", callers),
			faults:  []fault{moment(second, second+60*ms)},
			callers: callers, lasts: 2 * second, whole: true,
		})
	}
	all[1].lasts = 4 * second
	for _, callers := range []int{15, 50} {
		all = append(all, scenario{
			name:    fmt.Sprintf("a connection dies, in flight: %d", callers),
			faults:  []fault{moment(second, second)},
			callers: callers, lasts: 2 * second, whole: true, method: keyed,
		})
	}
	several := func(width, apart time.Duration, n int) (all []fault) {
		for i := 1; i <= n; i++ {
			from := time.Duration(i) * apart
			all = append(all, moment(from, from+width))
		}
		return all
	}
	return append(all, scenario{
		name:    "five moments of 60ms, a second apart, callers: 50",
		faults:  several(60*ms, second, 5),
		callers: 50, every: 250 * ms, lasts: 7 * second,
	}, scenario{
		name:    "a connection dies each 3s, callers: 20, deadline 10s",
		faults:  several(0, 3*second, 3),
		callers: 20, every: 250 * ms, lasts: 12 * second, deadline: 10 * second,
	})
}

func randomRows() (all []scenario) {
	for i, share := range []float64{0.1, 0.3, 0.5, 0.7} {
		of := fmt.Sprintf("%.0f %% of attempts", 100*share)
		calls := 50
		if share == 0.5 {
			calls = 100
		}
		all = append(all, scenario{
			name:    fmt.Sprintf("503 for %s, %d calls by 20 callers", of, 20*calls),
			faults:  []fault{flaky(down, share, uint64(10+i))},
			callers: 20, calls: calls, chance: true,
		}, scenario{
			name:    "reset for " + of + ", 20 calls a second",
			faults:  []fault{flaky(reset, share, uint64(20+i))},
			callers: 1, calls: 500, every: 50 * ms, open: true, chance: true,
		})
	}
	return append(all, scenario{
		name:    "reset for 50 % of attempts, 500 calls by 20 callers",
		faults:  []fault{flaky(reset, 0.5, 30)},
		callers: 20, calls: 25, chance: true,
	}, scenario{
		name:    "an error unknown to net for 10 % of attempts, 400 calls by 20 callers",
		faults:  []fault{flaky(foreign, 0.1, 31)},
		callers: 20, calls: 20, chance: true,
	}, scenario{
		name:    "an error unknown to net for 50 % of attempts, 500 calls by 20 callers",
		faults:  []fault{flaky(foreign, 0.5, 32)},
		callers: 20, calls: 25, chance: true,
	}, scenario{
		name:    "reset for 50 % of attempts, 200 calls by 1 caller, POST",
		faults:  []fault{flaky(reset, 0.5, 33)},
		callers: 1, calls: 200, chance: true, method: keyed,
	}, scenario{
		name:    "503 for 30 % of attempts, 640 calls by 64 callers, deadline 10s",
		faults:  []fault{flaky(down, 0.3, 34)},
		callers: 64, calls: 10, chance: true, deadline: 10 * second,
	}, scenario{
		name:    "501 for each attempt of 3 of 4 calls, 600 calls by 20 callers",
		faults:  []fault{hopeless("501", 0.75, 35)},
		callers: 20, calls: 30, chance: true,
	}, scenario{
		name:    "500 for each attempt of 1 of 4 calls, 600 calls by 20 callers",
		faults:  []fault{hopeless("500", 0.25, 36)},
		callers: 20, calls: 30, chance: true,
	})
}

const unsaid = sturdytest.RetryAfter(0)

func limitRows() (all []scenario) {
	const seconds, millis = sturdytest.Seconds, sturdytest.Milliseconds
	add := func(name string, l sturdytest.Limit, says sturdytest.RetryAfter, change func(*http.Response), callers, calls int) *scenario {
		all = append(all, scenario{
			name:   fmt.Sprintf("%s, callers: %d, calls of each: %d", name, callers, calls),
			limits: []sturdytest.Limit{l}, says: says, change: change,
			callers: callers, calls: calls, every: 100 * ms,
		})
		return &all[len(all)-1]
	}
	hundred, ten, two := sturdytest.Limit{Rate: 100, Burst: 100}, sturdytest.Limit{Rate: 10, Burst: 10}, sturdytest.Limit{Rate: 2, Burst: 1}
	window := sturdytest.Limit{Rate: 20, Window: true}

	add("100/s, bare 429s", hundred, unsaid, nil, 500, 1).alone = true
	add("100/s, bare 429s, POST without a key", hundred, unsaid, nil, 250, 1).method = keyless
	add("100/s, Retry-After", hundred, seconds, nil, 250, 1)
	add("100/s, Retry-After-Ms", hundred, millis, nil, 250, 1)
	add("100/s, Retry-After 0", hundred, unsaid, atOnce, 250, 1)
	add("10/s, bare 429s", ten, unsaid, nil, 64, 1)
	add("10/s, bare 429s", ten, unsaid, nil, 64, 4)
	add("10/s, bare 429s", ten, unsaid, nil, 5, 40)
	add("10/s, bare 429s, deadline 10s", ten, unsaid, nil, 64, 4).deadline = 10 * second
	add("10/s, Retry-After", ten, seconds, nil, 5, 40)
	add("10/s, Retry-After", ten, seconds, nil, 64, 2)
	add("10/s, Retry-After, deadline 5s", ten, seconds, nil, 64, 2).deadline = 5 * second
	add("2/s burst 1, bare 429s", two, unsaid, nil, 1, 30)
	add("2/s burst 1, bare 429s", two, unsaid, nil, 5, 10)
	add("2/s burst 1, Retry-After-Ms", two, millis, nil, 5, 10)
	add("2/s burst 1, Retry-After 0", two, unsaid, atOnce, 5, 10)
	add("2/s burst 1, bare 429s", two, unsaid, nil, 64, 1)
	add("20 in each second, bare 429s", window, unsaid, nil, 64, 4)
	add("20 in each second, Retry-After", window, seconds, nil, 64, 4)
	add("20 in each second, bare 429s", window, unsaid, nil, 5, 40)

	// It takes a moment to tell these from a server that is down, and who gets what
	// there is meanwhile depends on the moments that the clients draw.
	first := len(all)
	add("100/s, bare 503s", hundred, unsaid, unavailable, 500, 1)
	add("100/s, 503s with Retry-After", hundred, seconds, unavailable, 250, 1)
	add("10/s, bare 503s", ten, unsaid, unavailable, 1, 100)
	add("10/s, bare 503s", ten, unsaid, unavailable, 5, 40)
	add("10/s, 503s with Retry-After", ten, seconds, unavailable, 5, 40)
	add("10/s, bare 503s", ten, unsaid, unavailable, 64, 2)
	add("10/s, 503s with Retry-After", ten, seconds, unavailable, 64, 2)
	add("2/s burst 1, bare 503s", two, unsaid, unavailable, 1, 30)
	add("2/s burst 1, bare 503s", two, unsaid, unavailable, 5, 10)
	add("20 in each second, bare 503s", window, unsaid, unavailable, 64, 4)
	for i := range all[first:] {
		all[first+i].chance = true
	}
	return all
}

// unavailable makes a server refuse with a 503.
func unavailable(resp *http.Response) {
	if resp.StatusCode == 429 {
		resp.StatusCode, resp.Status = 503, "503 Service Unavailable"
	}
}

// atOnce makes a server refuse with a wait of nothing.
func atOnce(resp *http.Response) {
	if resp.StatusCode == 429 {
		resp.Header.Set("Retry-After", "0")
	}
}

// otherRows are servers whose answers say what is not so: they take all that
// is sent.
func otherRows() (all []scenario) {
	// A bubble's clock begins with this century.
	reset := fmt.Sprint(time.Date(2000, 1, 1, 1, 0, 0, 0, time.UTC).Unix())
	none := sturdytest.OK(page).With("X-RateLimit-Remaining", "0")
	for _, says := range []struct {
		what   string
		answer sturdytest.Step
	}{
		{"none left for an hour", none.With("X-RateLimit-Limit", "5000").With("X-RateLimit-Reset", reset)},
		{"none left for an hour, of no limit", none.With("X-RateLimit-Reset", "3600")},
		{"RateLimit: r=0;t=3600", sturdytest.OK(page).With("RateLimit", `"default";r=0;t=3600`)},
		{"Retry-After: 3600", sturdytest.OK(page).With("Retry-After", "3600")},
	} {
		for _, deadline := range []time.Duration{0, 10 * second} {
			s := scenario{
				name:    "200s that say " + says.what + ", callers: 5",
				answer:  says.answer,
				callers: 5, calls: 8, every: 250 * ms, deadline: deadline, whole: true,
			}
			if deadline > 0 {
				s.name += ", deadline 10s"
			}
			all = append(all, s)
		}
	}
	return all
}
