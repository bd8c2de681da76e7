package sturdy

import (
	"fmt"
	"net/http"
	"strings"
)

// A key tells apart what is limited or fails by itself. Either the caller named
// it, or it is made of where a request goes and on whose behalf.
type key struct {
	name         string
	scheme, host string
	credential   uint64 // a fingerprint; 0 for none
}

// String returns the key for display. Its fingerprint is worth nothing outside
// this process.
func (k key) String() string {
	switch {
	case k.host == "":
		return k.name
	case k.credential == 0:
		return k.scheme + "://" + k.host
	}
	return fmt.Sprintf("%s://%s#%08x", k.scheme, k.host, uint32(k.credential)) //nolint:gosec // cut on purpose
}

// display is String if anybody is there to read it. A caller's own key may be
// the credential itself.
func (k key) display(req *http.Request, w watchers) string {
	switch {
	case !w.any():
		return ""
	case k.name != "":
		return withoutSecrets(k.name, secretsOf(req))
	}
	return k.String()
}

// originKey is the key of where req goes.
func originKey(req *http.Request) key {
	if req.URL == nil {
		return key{}
	}
	host := strings.ToLower(req.URL.Host)
	switch req.URL.Scheme {
	case "https":
		host = strings.TrimSuffix(host, ":443")
	case "http":
		host = strings.TrimSuffix(host, ":80")
	}
	return key{scheme: req.URL.Scheme, host: host}
}
