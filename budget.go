package sturdy

import (
	"cmp"
	"math"
	"net/http"
	"sync"
	"time"
)

// A Budget bounds what [Retry] adds to the load of a server that is down. A
// retry is paid for when it is decided on, before its wait, and paid back if it
// succeeds, or is not sent after all. So what is spent is what is out and what
// failed. A call that succeeds at once earns a part of a retry. Who cannot pay
// does not wait: the last answer goes to the caller as it is.
//
// Each key has an account of its own, which starts with Size and never stays
// below that for good: it gets one more every ten seconds. What successes lift
// above Size lasts for some seconds, so that who sends more may retry more. A
// client that made n calls a second before a total outage of t seconds retries
// at most Size + t/10 + 3*Ratio*n times in it: by default the first 20 calls and
// some, in the first moments, then next to none. While no more than 30 % of the
// attempts fail, every retry is paid for. If half of them fail, three calls in
// four succeed, for 1.5 attempts each.
//
// A retry that RateLimit paces, because the server answered 429, is free: the
// server was asked for no more than it takes.
//
// The zero value is ready to use. One Budget may serve several layers.
//
//	shared := &sturdy.Budget{Size: 50}
//	chat := &sturdy.Transport{Retry: sturdy.Retry{Budget: shared}}
//	files := &sturdy.Transport{Retry: sturdy.Retry{Budget: shared, Attempts: 2}}
type Budget struct {
	Size  int                        // retries of one key that may be out or failed if none of late succeeded; zero means 20, negative means any number
	Ratio float64                    // of a retry, that a call which succeeds at once earns; zero means 0.5, negative means nothing
	Key   func(*http.Request) string // requests with one key share one account; nil means scheme and host

	accounts keyed[*account]
}

// The defaults serve three ends, to which the tests hold them: an outage of a
// minute is met with 1.03 requests for each call, from 50 calls a second on;
// while 30 % of the attempts fail, no call is lost for want of a retry, be it one
// of 2 a second or of 500; and a program that has just begun has retries too.
//
// The last wants a Size, and the first a small one; AWS's SDKs have 35:
// https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html.
// The second wants a Ratio above 0.43, since of a burst of calls 0.3 are to be
// retried for 0.7 that succeed at once, and it wants an account that grows with
// the traffic, as what is out does. Since it grows with the traffic it has to
// forget, lest an outage be met with what a day has earned. A higher Ratio would
// send still more to a server of which every other answer fails.
const (
	budgetSize  = 20
	budgetRatio = 0.5
	budgetFade  = 3 * time.Second  // what is above Size shrinks to 1/e of it
	budgetDrip  = 10 * time.Second // for one retry, up to Size
)

func (b *Budget) check() error {
	if math.IsNaN(b.Ratio) {
		return misconfigured("Budget.Ratio is not a number")
	}
	return nil
}

// open returns the account that req's retries are paid from, or nil if they
// need not be paid for. It is closed with close.
func (b *Budget) open(req *http.Request) *entry[*account] {
	if b.Size < 0 {
		return nil
	}
	k := originKey(req)
	if b.Key != nil {
		k = key{name: b.Key(req)}
	}
	return b.accounts.use(k, b.newAccount)
}

func (b *Budget) close(e *entry[*account]) {
	if e != nil {
		b.accounts.release(e)
	}
}

func (b *Budget) newAccount() *account {
	size := float64(cmp.Or(b.Size, budgetSize))
	return &account{size: size, balance: size, at: time.Now()}
}

// earn books a call that succeeded at once.
func (b *Budget) earn(req *http.Request) {
	if b.Ratio < 0 {
		return
	}
	if e := b.open(req); e != nil {
		e.state.add(cmp.Or(b.Ratio, budgetRatio))
		b.close(e)
	}
}

// An account is what one key has left, in retries.
type account struct {
	size float64

	mu      sync.Mutex
	balance float64
	at      time.Time // as of when
}

// add books what was earned, or is paid back.
func (a *account) add(retries float64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.age()
	a.balance += retries
}

// pay takes one retry, or reports that there is none.
func (a *account) pay() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.age()
	if a.balance < 1 {
		return false
	}
	a.balance--
	return true
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
