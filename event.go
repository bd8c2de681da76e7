package sturdy

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"time"

	"golang.org/x/time/rate"
)

// An EventKind says what an [Event] is about: a word that serves as a metric's
// label.
type EventKind string

// The kinds of events, by the layer that reports them.
const (
	EventRetry    EventKind = "retry"     // Retry: an attempt failed, the next is sent after Wait
	EventGiveUp   EventKind = "give_up"   // Retry: a failure that more time might have cured goes to the caller
	EventBudget   EventKind = "budget"    // Retry: the same, where a retry was due and the Budget is used up
	EventPause    EventKind = "pause"     // RateLimit: the server asked everybody with this Key to wait
	EventLimit    EventKind = "limit"     // RateLimit: the server's limit for this Key was learned, or has changed, to Rate
	EventQueue    EventKind = "queue"     // RateLimit: a request has to wait
	EventWait     EventKind = "wait"      // RateLimit, Breaker: a request had to wait, and now leaves
	EventRefuse   EventKind = "refuse"    // RateLimit, Breaker: a request was not sent
	EventKeys     EventKind = "keys"      // RateLimit, Breaker: more keys than MaxKeys are in use, so there was no room for this one; at most once a minute
	EventTimeout  EventKind = "timeout"   // Timeout: an attempt, or a body that stalled, was given up
	EventBroken   EventKind = "broken"    // Stream: a stream failed after its headers
	EventOpen     EventKind = "open"      // Breaker: the circuit of this Key opened, for Wait at least
	EventHalfOpen EventKind = "half_open" // Breaker: one request is let through to see
	EventClose    EventKind = "close"     // Breaker: the circuit closed
)

// An Event is something that a layer did. There is no secret in it, but for the
// cause that errors.As finds in its Err, and what WithTenant was given.
//
// Observe functions are called in the goroutine of the request that caused the
// event, or of its body's reader, with that request's context and outside every lock. They should
// return soon: the request waits for them.
type Event struct {
	Kind    EventKind
	Method  string        // of the request
	Host    string        // that the request is for
	Key     string        // of the bucket or the circuit; empty for Retry and Timeout
	Attempt int           // how many times the request was sent, this time included
	Wait    time.Duration // ahead for EventRetry, EventPause, EventOpen; past for EventWait
	Rate    rate.Limit    // requests per second, for EventLimit
	Err     *Error        // what happened; nil for EventKeys, EventQueue, EventWait, EventHalfOpen, EventClose

	Priority int    // from -100 to 100, see WithPriority; for EventQueue, EventWait and EventRefuse
	Tenant   string // see WithTenant; for the same
}

// Log returns a function for an Observe field that writes every event to l:
// what hurts a caller as a warning, what was mended as information, and waits
// for debugging.
func Log(l *slog.Logger) func(context.Context, Event) {
	return func(ctx context.Context, ev Event) {
		level := slog.LevelInfo
		switch ev.Kind {
		case EventGiveUp, EventBudget, EventOpen, EventRefuse, EventBroken, EventKeys:
			level = slog.LevelWarn
		case EventWait, EventQueue:
			level = slog.LevelDebug
		}
		if !l.Enabled(ctx, level) {
			return
		}
		attrs := append(make([]slog.Attr, 0, 8),
			slog.String("method", ev.Method), slog.String("host", ev.Host), slog.Int("attempt", ev.Attempt))
		if ev.Key != "" {
			attrs = append(attrs, slog.String("key", ev.Key))
		}
		if ev.Wait != 0 {
			attrs = append(attrs, slog.Duration("wait", ev.Wait))
		}
		if ev.Priority != 0 {
			attrs = append(attrs, slog.Int("priority", ev.Priority))
		}
		if ev.Tenant != "" {
			attrs = append(attrs, slog.String("tenant", ev.Tenant))
		}
		if ev.Rate != 0 {
			attrs = append(attrs, slog.Float64("rate", float64(ev.Rate)))
		}
		if ev.Err != nil {
			attrs = append(attrs, slog.Any("error", ev.Err))
		}
		l.LogAttrs(ctx, level, "sturdy: "+string(ev.Kind), attrs...)
	}
}

// watchers are the functions that want to see a layer's events: its own, and
// that of the Transport it is in.
type watchers [2]func(context.Context, Event)

func (w watchers) any() bool { return w[0] != nil || w[1] != nil }

func (w watchers) see(req *http.Request, ev Event) {
	if !w.any() {
		return
	}
	ev.Method, ev.Attempt = req.Method, cmp.Or(ev.Attempt, attemptOf(req))
	if req.URL != nil {
		ev.Host = req.URL.Host
	}
	for _, see := range w {
		if see != nil {
			see(req.Context(), ev)
		}
	}
}
