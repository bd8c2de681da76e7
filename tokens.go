package sturdy

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
)

// EstimateTokens is a Cost for [RateLimit] that estimates how many tokens a
// request to a language model will be charged: a token for each four bytes of
// its body, which are the input, and max_completion_tokens, max_tokens or
// max_output_tokens, times n, which are the output. So do the servers that
// charge a request before they answer it. Where the body says nothing of the
// output, or the server charges what was really used, RateLimit learns by how
// much the estimate is wrong.
//
// It reads the body with Request.GetBody; where there is none, it goes by
// ContentLength.
func EstimateTokens(req *http.Request) int {
	body := jsonBody(req)
	if body == nil {
		return int((max(req.ContentLength, 0) + 3) / 4)
	}
	input := (len(body) + 3) / 4
	output := 0
	for _, name := range [...]string{"max_completion_tokens", "max_tokens", "max_output_tokens"} {
		if output = number(member(body, name)); output > 0 {
			break
		}
	}
	return input + output*max(number(member(body, "n")), 1)
}

// maxUnits keeps an estimate, and what it is multiplied with, a sane number.
const maxUnits = 1 << 30

// number returns what a JSON number says, from 0 up; 0 for what is none.
func number(v value) int {
	n, err := strconv.Atoi(v.text())
	if err != nil || n < 0 {
		return 0
	}
	return min(n, maxUnits)
}

// jsonBody returns a request's body, if it can be had again and is an object.
func jsonBody(req *http.Request) value {
	b := value(bytes.TrimLeft(bodyOf(req, maxEvent), " \t\r\n"))
	if !b.isObject() {
		return nil
	}
	return b
}

// HostKey is a Key for [RateLimit], of requests that share a limit if they go
// to the same host, whosever they are.
func HostKey(req *http.Request) string { return originKey(req).String() }

// HeaderKey returns a Key for [RateLimit], of requests that share a limit if
// they go to the same host and have the same value in this header, such as
// OpenAI-Organization.
func HeaderKey(name string) func(*http.Request) string {
	return func(req *http.Request) string { return HostKey(req) + " " + req.Header.Get(name) }
}

// ModelKey is a Key for [RateLimit], of requests that share a limit if they go
// to the same host and their JSON body names the same model.
func ModelKey(req *http.Request) string {
	return HostKey(req) + " " + member(jsonBody(req), "model").text()
}

// A usageMeter finds, in the bytes of an answer that pass it by, how many
// tokens the server says were used: in the last "usage" of them, be it of a
// JSON body or of a stream's last event. It keeps no more than the end of what
// has passed.
type usageMeter struct {
	total, input, output int

	tail [usageTail]byte
	kept int
}

const usageTail = 64 // more than a member's name and its number have

// pass looks at the next bytes.
func (u *usageMeter) pass(p []byte) {
	if len(p) == 0 {
		return
	}
	// What begins in the last bytes of what passed before.
	seam := append(u.tail[:u.kept:u.kept], p[:min(len(p), usageTail)]...)
	u.scan(seam)
	if len(p) > usageTail {
		u.scan(p)
	}
	all := p
	if len(p) < usageTail {
		all = seam
	}
	u.kept = copy(u.tail[:], all[max(len(all)-usageTail, 0):])
}

func (u *usageMeter) scan(p []byte) {
	for {
		i := bytes.Index(p, []byte(`_tokens"`))
		if i < 0 {
			return
		}
		name, rest := p[:i], p[i+len(`_tokens"`):]
		p = rest
		rest = bytes.TrimLeft(rest, ": ")
		digits := len(rest) - len(bytes.TrimLeft(rest, "0123456789"))
		if digits == 0 || digits == len(rest) {
			continue // it is no number, or goes on
		}
		n := number(value(rest[:digits]))
		switch {
		case bytes.HasSuffix(name, []byte(`"total`)):
			u.total = n
		case bytes.HasSuffix(name, []byte(`"input`)), bytes.HasSuffix(name, []byte(`"prompt`)):
			u.input = n
		case bytes.HasSuffix(name, []byte(`"output`)), bytes.HasSuffix(name, []byte(`"completion`)):
			u.output = n
		}
	}
}

// used is how many tokens were used; 0 if nothing says so.
func (u *usageMeter) used() int {
	if u.total > 0 {
		return u.total
	}
	return u.input + u.output
}

// A metered body shows what is read of it to a usageMeter.
type metered struct {
	io.ReadCloser
	usage *usageMeter
}

func (m *metered) Read(p []byte) (int, error) {
	n, err := m.ReadCloser.Read(p)
	m.usage.pass(p[:max(min(n, len(p)), 0)])
	return n, err
}
