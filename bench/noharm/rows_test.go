package noharm

import (
	"cmp"
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

// rows are the scenarios of the table, all with different names.
func rows() []scenario {
	return slices.Concat(outageRows(), momentRows(), randomRows(), limitRows(), otherRows())
}

// away is a server that is away for a while, and callers each of whom calls
// each 250ms.
func away(k kind, lasts time.Duration, callers int, deadline time.Duration, post bool) scenario {
	s := scenario{
		faults:  []fault{outage(k, 2*second, 2*second+lasts)},
		callers: callers, every: 250 * ms, lasts: 2*second + lasts + max(3*second, lasts/2),
		deadline: deadline, post: post,
	}
	s.name = fmt.Sprintf("%s for %v, %d callers", k, lasts, callers)
	if post {
		s.name += ", POST"
	}
	if deadline > 0 {
		s.name += fmt.Sprintf(", deadline %v", deadline)
	}
	return s
}

func outageRows() []scenario {
	var all []scenario
	// As they were measured first.
	for _, lasts := range []time.Duration{second / 2, second, 10 * second} {
		for _, deadline := range []time.Duration{0, 30 * second} {
			s := away(down, lasts, 20, deadline, false)
			s.lasts = 40 * second
			s.name += ", 40s of calls"
			all = append(all, s)
		}
	}
	const get, post = false, true
	all = append(all,
		away(refused, 9*second, 12, 0, get), away(down, 9*second, 40, 0, get),
		away(reset, 9*second, 12, 30*second, post), away(refused, 9*second, 40, 30*second, get),

		away(refused, 300*ms, 1, 0, get), away(reset, 300*ms, 12, 0, post), away(down, 300*ms, 64, 0, get), away(hang, 300*ms, 40, 5*second, get),
		away(refused, 500*ms, 40, 0, post), away(reset, 500*ms, 1, 5*second, get), away(hang, 500*ms, 20, 0, post),
		away(reset, second, 64, 0, get), away(refused, second, 12, 5*second, get), away(hang, second, 1, 10*second, get),
		away(refused, 3*second, 20, 0, get), away(reset, 3*second, 1, 0, get), away(down, 3*second, 12, 5*second, get),
		away(hang, 3*second, 64, 0, get), away(down, 3*second, 1, 5*second, post), away(refused, 3*second, 64, 10*second, get),
		away(refused, 9*second, 1, 0, get), away(down, 9*second, 1, 10*second, get), away(hang, 9*second, 20, 30*second, get), away(down, 9*second, 20, 5*second, get),
		away(down, 10*second, 1, 30*second, get), away(reset, 10*second, 64, 0, get), away(hang, 10*second, 12, 0, post), away(refused, 10*second, 20, 10*second, get),
		away(down, 20*second, 1, 0, get), away(refused, 20*second, 12, 30*second, post), away(reset, 20*second, 20, 60*second, get),
		away(hang, 20*second, 40, 30*second, get), away(refused, 20*second, 1, 60*second, get), away(down, 20*second, 20, 10*second, get),
		away(named, 3*second, 12, 0, get), away(named, 9*second, 20, 30*second, get),
	)
	all = append(all, scenario{
		name:    "503 for 7s of each 20s, 25 calls a second, deadline 1m0s",
		faults:  []fault{outages(down, 7*second, 20*second)},
		callers: 1, every: 40 * ms, lasts: 240 * second, open: true, deadline: 60 * second,
	}, scenario{
		name:    "refused for 4s of each 10s, 25 calls a second, no deadline",
		faults:  []fault{outages(refused, 4*second, 10*second)},
		callers: 1, every: 40 * ms, lasts: 60 * second, open: true,
	})
	return all
}

func momentRows() []scenario {
	var all []scenario
	for _, callers := range []int{15, 40, 50, 64} {
		s := scenario{
			name:    fmt.Sprintf("60ms in which all in flight fail, %d callers", callers),
			faults:  []fault{moment(2*second, 2*second+60*ms)},
			callers: callers, lasts: 4 * second,
		}
		if callers == 40 {
			s.lasts = 10 * second
		}
		all = append(all, s)
	}
	for _, callers := range []int{15, 50} {
		all = append(all, scenario{
			name:    fmt.Sprintf("a connection dies with %d in flight", callers),
			faults:  []fault{moment(2*second, 2*second)},
			callers: callers, lasts: 4 * second, post: callers == 15,
		})
	}
	return append(all, scenario{
		name:    "five moments of 60ms, a second apart, 50 callers",
		faults:  []fault{moment(2*second, 2060*ms), moment(3*second, 3060*ms), moment(4*second, 4060*ms), moment(5*second, 5060*ms), moment(6*second, 6060*ms)},
		callers: 50, every: 250 * ms, lasts: 9 * second,
	}, scenario{
		name:    "a connection dies each 3s, 20 callers, deadline 10s",
		faults:  []fault{moment(3*second, 3*second), moment(6*second, 6*second), moment(9*second, 9*second)},
		callers: 20, every: 100 * ms, lasts: 12 * second, deadline: 10 * second,
	})
}

func randomRows() []scenario {
	var all []scenario
	for i, share := range []float64{0.1, 0.3, 0.5, 0.7} {
		for j, k := range []kind{down, reset} {
			s := scenario{
				name:    fmt.Sprintf("%s for %.0f %% of attempts, 2,000 calls by 20 callers", k, 100*share),
				faults:  []fault{flaky(k, share, uint64(2*i+j))},
				callers: 20, calls: 100, chance: true,
			}
			all = append(all, s)
			if k == down {
				s.name = fmt.Sprintf("%s for %.0f %% of attempts, 25 calls a second", k, 100*share)
				s.callers, s.every, s.calls, s.open = 1, 40*ms, 1000, true
				all = append(all, s)
			}
		}
	}
	for _, share := range []float64{0.1, 0.5} {
		all = append(all, scenario{
			name:    fmt.Sprintf("an error that net does not know for %.0f %% of attempts", 100*share),
			faults:  []fault{flaky(foreign, share, 77)},
			callers: 20, calls: 50, chance: true,
		})
	}
	return append(all, scenario{
		name:    "reset for 50 % of attempts, a lone caller, POST",
		faults:  []fault{flaky(reset, 0.5, 78)},
		callers: 1, calls: 200, chance: true, post: true,
	}, scenario{
		name:    "503 for 30 % of attempts, 64 callers, deadline 10s",
		faults:  []fault{flaky(down, 0.3, 79)},
		callers: 64, calls: 20, chance: true, deadline: 10 * second,
	})
}

func limitRows() []scenario {
	bucket := func(rate float64, burst int) sturdytest.Limit { return sturdytest.Limit{Rate: rate, Burst: burst} }
	window := sturdytest.Limit{Rate: 20, Window: true}
	unavailable := func(resp *http.Response) {
		if resp.StatusCode == 429 {
			resp.StatusCode, resp.Status = 503, "503 Service Unavailable"
		}
	}
	zero := func(resp *http.Response) {
		if resp.StatusCode == 429 {
			resp.Header.Set("Retry-After", "0")
		}
	}
	const bare, seconds, millis = sturdytest.RetryAfter(0), sturdytest.Seconds, sturdytest.Milliseconds
	var all []scenario
	add := func(name string, l sturdytest.Limit, says sturdytest.RetryAfter, change func(*http.Response), callers, calls int) {
		all = append(all, scenario{
			name:   fmt.Sprintf("%s, %d callers, %d calls each", name, callers, calls),
			limits: []sturdytest.Limit{l}, says: says, change: change,
			callers: callers, calls: calls, every: 100 * ms, chance: true,
		})
	}
	add("100/s, bare 429s", bucket(100, 100), bare, nil, 500, 1)
	add("100/s, Retry-After", bucket(100, 100), seconds, nil, 500, 1)
	add("100/s, Retry-After-Ms", bucket(100, 100), millis, nil, 500, 1)
	add("100/s, Retry-After 0", bucket(100, 100), bare, zero, 500, 1)
	add("100/s, bare 503s", bucket(100, 100), bare, unavailable, 500, 1)
	add("100/s, 503s with Retry-After", bucket(100, 100), seconds, unavailable, 500, 1)
	add("10/s, bare 429s", bucket(10, 10), bare, nil, 64, 1)
	add("10/s, bare 429s", bucket(10, 10), bare, nil, 64, 4)
	add("10/s, bare 429s", bucket(10, 10), bare, nil, 5, 40)
	add("10/s, Retry-After", bucket(10, 10), seconds, nil, 5, 40)
	add("10/s, Retry-After", bucket(10, 10), seconds, nil, 64, 2)
	add("10/s, bare 503s", bucket(10, 10), bare, unavailable, 5, 40)
	add("10/s, 503s with Retry-After", bucket(10, 10), seconds, unavailable, 5, 40)
	add("10/s, bare 503s", bucket(10, 10), bare, unavailable, 64, 2)
	add("10/s, 503s with Retry-After", bucket(10, 10), seconds, unavailable, 64, 2)
	add("2/s burst 1, bare 429s", bucket(2, 1), bare, nil, 1, 30)
	add("2/s burst 1, bare 429s", bucket(2, 1), bare, nil, 5, 10)
	add("2/s burst 1, Retry-After-Ms", bucket(2, 1), millis, nil, 5, 10)
	add("2/s burst 1, Retry-After 0", bucket(2, 1), bare, zero, 5, 10)
	add("2/s burst 1, bare 503s", bucket(2, 1), bare, unavailable, 1, 30)
	add("2/s burst 1, bare 503s", bucket(2, 1), bare, unavailable, 5, 10)
	add("20 in each second, bare 429s", window, bare, nil, 64, 4)
	add("20 in each second, Retry-After", window, seconds, nil, 64, 4)
	add("20 in each second, bare 503s", window, bare, unavailable, 64, 4)
	add("20 in each second, bare 429s", window, bare, nil, 5, 40)
	return all
}

func otherRows() []scenario {
	in := func(d time.Duration) string { return fmt.Sprint(bubbleStart.Add(d).Unix()) }
	exhausted := sturdytest.OK(page).With("X-RateLimit-Limit", "5000").
		With("X-RateLimit-Remaining", "0").With("X-RateLimit-Reset", in(time.Hour))
	wrong := scenario{
		name:    "200s that say none are left for an hour, 5 callers",
		answer:  exhausted,
		callers: 5, calls: 20, every: 250 * ms,
	}
	hurried := wrong
	hurried.deadline = 10 * second
	hurried.name = cmp.Or(wrong.name) + ", deadline 10s"
	return []scenario{wrong, hurried}
}

// bubbleStart is what time it is when a bubble begins.
var bubbleStart = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
