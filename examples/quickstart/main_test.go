package main

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sturdyhttp/sturdy"
)

func TestSturdyLosesNothing(t *testing.T) {
	var out bytes.Buffer
	show := &screen{Writer: &out}

	bare, firm, err := compare(t.Context(), usual, show)
	require.NoError(t, err)
	show.table(bare, firm)
	show.explain(firm)
	t.Log("\n" + out.String())

	assert.Len(t, firm.calls, 200)
	assert.Empty(t, firm.wrong())
	assert.Equal(t, 194, firm.ended(0), "all succeed that can")
	assert.Equal(t, 3, firm.ended(sturdy.ErrAuthentication))
	assert.Equal(t, 3, firm.ended(sturdy.ErrQuotaExceeded))
	all, once := firm.hopeless()
	assert.Equal(t, 6, all)
	assert.Equal(t, 6, once, "what cannot succeed is sent exactly once")
	assert.Less(t, firm.seen.requests, 200*13/10)

	assert.Len(t, bare.calls, 200)
	assert.Less(t, bare.ended(0), firm.ended(0), "a bare client loses calls that can succeed")
	assert.GreaterOrEqual(t, bare.seen.requests, 200)

	assert.Contains(t, out.String(), "succeeded")
	assert.Contains(t, out.String(), "failed: quota_exceeded")
	assert.Contains(t, out.String(), "One of the failures:\nsturdy: ")
}

func TestInterruptEnds(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	interrupt := errors.New("interrupt")
	const before = 20 // requests
	client := &http.Client{Transport: &interrupting{n: before, by: func() { cancel(interrupt) }}}
	o, err := makeCalls(ctx, "bare", client, usual, &screen{Writer: &bytes.Buffer{}})
	assert.Equal(t, interrupt, err)
	assert.LessOrEqual(t, o.seen.requests, before+usual.goroutines, "no call begins any more")

	_, _, err = compare(ctx, usual, &screen{Writer: &bytes.Buffer{}})
	assert.Equal(t, interrupt, err)
}

// interrupting is a base that does something at the nth request.
type interrupting struct {
	sent atomic.Int64
	n    int64
	by   func()
}

func (i *interrupting) RoundTrip(req *http.Request) (*http.Response, error) {
	if i.sent.Add(1) == i.n {
		i.by()
	}
	return http.DefaultTransport.RoundTrip(req)
}

func TestSameSeedSameScript(t *testing.T) {
	other := usual
	other.seed++
	first, again := usual.calls(), usual.calls()
	assert.Equal(t, first, again)
	assert.NotEqual(t, first, other.calls())
}

func TestWrong(t *testing.T) {
	quota, rate := &sturdy.Error{Class: sturdy.ErrQuotaExceeded}, &sturdy.Error{Class: sturdy.ErrRateLimit}
	for name, test := range map[string]struct {
		key   string
		err   error
		sent  int
		wrong bool
	}{
		"a good key succeeds":                 {goodKey, nil, 3, false},
		"a good key fails":                    {goodKey, rate, 3, true},
		"no credit, sent once":                {brokeKey, quota, 1, false},
		"no credit, sent again":               {brokeKey, quota, 2, true},
		"no credit, not sent":                 {brokeKey, quota, 0, true},
		"no credit taken for too fast":        {brokeKey, rate, 1, true},
		"no credit, but it succeeds":          {brokeKey, nil, 1, true},
		"a wrong key taken for no credit":     {wrongKey, quota, 1, true},
		"a wrong key is told to authenticate": {wrongKey, &sturdy.Error{Class: sturdy.ErrAuthentication}, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			o := &outcome{
				calls: []call{{id: "a", key: test.key}},
				errs:  []error{test.err},
				seen:  tally{sent: map[string]int{"a": test.sent}},
			}
			assert.Equal(t, test.wrong, len(o.wrong()) > 0, o.wrong())
		})
	}
}
