package sturdy

import (
	"cmp"
	"math"
	"net/http"
	"sync"
	"time"

	"github.com/sturdyhttp/sturdy/internal/times"
)

// A Budget bounds what [Retry] adds to the load of a server that is down. A
// retry is paid for when it is decided on, before its wait, and paid back if it
// succeeds, or is not sent after all. So what is spent is what is out and what
// failed. A call that succeeds earns more. Who cannot pay does not wait: the last
// answer goes to the caller as it is.
//
// Each key has an account of its own, which starts with Size and never stays
// below that for good: it gets one more every two seconds. What successes lift
// above Size lasts for a moment, so that who sends more may retry more. A
// client that made n calls a second before a total outage of t seconds retries
// at most Size + t/2 + Ratio*n/2 times in it: by default the first 20 calls and
// some, in the first moments, then next to none. While no more than 70 % of the
// attempts fail, every retry is paid for.
//
// Four kinds of retries are free. Those within half a second of a success, as the
// server is not down. Of a request that was sent before another's
// failure was known, when none had failed for a second: whatever it was that failed
// them all, it was one event. Of one that the server answered with 429: it says itself that
// it may come again. And in a [Transport], while the circuit is open: the Breaker
// lets none pass but its probes.
//
// The zero value is ready to use. One Budget may serve several layers.
//
//	shared := &sturdy.Budget{Size: 50}
//	chat := &sturdy.Transport{Retry: sturdy.Retry{Budget: shared}}
//	files := &sturdy.Transport{Retry: sturdy.Retry{Budget: shared, Attempts: 2}}
type Budget struct {
	Size  int                        // retries of one key that may be out or failed if none of late succeeded; zero means 20, negative means any number
	Ratio float64                    // how many retries a call that succeeds earns; zero means 3, negative means none
	Key   func(*http.Request) string // requests with one key share one account; nil means scheme and host

	accounts keyed[*account]
}

// The defaults serve three ends, to which the tests hold them: an outage of a
// minute is met with 1.1 requests for each call at most, from 50 calls a second on;
// while 70 % of the attempts fail, no call is lost for want of a retry, be it one
// of 2 a second or of 500; and a program that has just begun has retries too.
//
// The last wants a Size, and the first a small one; AWS's SDKs have 35:
// https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html.
// The second wants a Ratio above 1.5: of five attempts at most, 1.24 retries a call
// fail, and 0.83 calls succeed. It wants an account that grows with the traffic,
// too, as what is out does. Since it grows with the traffic it has to forget, lest
// an outage be met with what a day has earned.
const (
	budgetSize  = 20
	budgetRatio = 3.
	budgetFade  = time.Second / 2 // what is above Size shrinks to 1/e of it
	budgetDrip  = 2 * time.Second // for one retry, up to Size
	budgetWorks = time.Second / 2 // after a success in which retries are free
	budgetEvent = time.Second     // without a failure, after which one is a new event
)

func (b *Budget) check() error {
	if math.IsNaN(b.Ratio) {
		return misconfigured("Budget.Ratio is not a number")
	}
	return nil
}

// open returns the account that req's retries are paid from. It is closed with
// close.
func (b *Budget) open(req *http.Request) *entry[*account] {
	k := originKey(req)
	if b.Key != nil {
		k = key{name: b.Key(req)}
	}
	return b.accounts.use(k, b.newAccount)
}

func (b *Budget) close(e *entry[*account]) { b.accounts.release(e) }

func (b *Budget) newAccount() *account {
	size := float64(cmp.Or(b.Size, budgetSize))
	if size < 0 {
		size = math.Inf(1)
	}
	return &account{size: size, balance: size, at: time.Now()}
}

// earn is what a success earns.
func (b *Budget) earn() float64 { return max(cmp.Or(b.Ratio, budgetRatio), 0) }

// An account is what one key has left, in retries, and when it was last seen to
// work.
type account struct {
	size float64

	mu      sync.Mutex
	balance float64
	at      time.Time     // as of when
	worked  time.Time     // when a success last came
	took    time.Time     // when a request was last sent that succeeded
	failed  time.Time     // when the first did not, in the latest event
	again   time.Time     // when the last did not
	back    chan struct{} // closed when one succeeds; nil while nobody waits for that
}

// succeeded books the success of a request that was sent then, which earns so much.
func (a *account) succeeded(sent time.Time, retries float64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.age()
	a.balance += retries
	a.worked, a.took = a.at, times.Later(a.took, sent)
	if a.back != nil {
		close(a.back)
		a.back = nil
	}
}

// payBack takes back a retry that was paid for.
func (a *account) payBack() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.age()
	a.balance++
}

// pay takes a retry for the failure of a request that was sent then, and reports
// whether it was paid for, and if not, whether it is free.
func (a *account) pay(sent time.Time) (paid, free bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.age()
	quiet := a.at.Sub(a.again) >= budgetEvent
	a.again = a.at
	switch {
	case a.at.Sub(a.worked) < budgetWorks:
		return false, true
	case quiet:
		a.failed = a.at
	case sent.Before(a.failed):
		return false, true
	}
	if a.balance < 1 {
		return false, false
	}
	a.balance--
	return true, false
}

// silent returns what is closed at the next success, or nil if a request that was
// sent since then has succeeded.
func (a *account) silent(since time.Time) <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.took.After(since) {
		return nil
	}
	if a.back == nil {
		a.back = make(chan struct{})
	}
	return a.back
}

// age does to the balance what time does.
func (a *account) age() {
	now := time.Now()
	past := now.Sub(a.at)
	a.at = now
	if over := a.balance - a.size; over > 0 {
		a.balance = a.size + over*math.Exp(-past.Seconds()/budgetFade.Seconds())
		return
	}
	a.balance = min(a.balance+past.Seconds()/budgetDrip.Seconds(), a.size)
}

// idle reports whether the account may be forgotten: a new one would have as
// much.
func (a *account) idle() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.age()
	return a.balance >= a.size
}
