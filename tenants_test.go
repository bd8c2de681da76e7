package sturdy

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// jwtOf returns a signed JSON Web Token, or what looks like one.
func jwtOf(claims string) string { return signedJWT(claims, "signature") }

func signedJWT(claims, signature string) string {
	part := base64.RawURLEncoding.EncodeToString
	return part([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + part([]byte(claims)) + "." + part([]byte(signature))
}

// spacedJWT returns the nth token of one subject, of which the header begins so.
func spacedJWT(begin string, n int) string {
	part := base64.RawURLEncoding.EncodeToString
	return part([]byte(begin+`"alg":"RS256"}`)) + "." + part(fmt.Appendf(nil, `{"iss":"i","sub":"s","iat":%d}`, n)) + ".signature"
}

// A tenant is how a request shows on whose behalf it is sent.
type tenant struct {
	headers []string // in pairs, as they are in the map
	query   string
	user    *url.Userinfo
	url     string // if it is another
}

func header(pairs ...string) tenant { return tenant{headers: pairs} }

func query(raw string) tenant { return tenant{query: raw} }

func at(url string) tenant { return tenant{url: url} }

func (c tenant) request(t testing.TB) *http.Request {
	req := get(t)
	if c.url != "" {
		var err error
		req.URL, err = url.Parse(c.url)
		require.NoError(t, err)
	}
	for i := 0; i < len(c.headers); i += 2 {
		req.Header[c.headers[i]] = append(req.Header[c.headers[i]], c.headers[i+1])
	}
	if c.query != "" {
		req.URL.RawQuery = c.query
	}
	req.URL.User = c.user
	return req
}

// credentials are the ways to show a credential, each of the value that it is
// given: a name, of which there is another for each tenant.
func credentials() map[string]func(who string) tenant {
	all := make(map[string]func(string) tenant)
	for _, name := range []string{
		"Authorization", "Api-Key", "X-Api-Key", "Apikey", "X-Api-Token", "X-Access-Token", "X-Auth-Token", "X-Auth-Key", "X-Auth-Email",
		"X-Goog-Api-Key", "X-Goog-User-Project", "Developer-Token", "Ocp-Apim-Subscription-Key", "X-Functions-Key",
		"Openai-Organization", "Openai-Project", "Xi-Api-Key", "X-Rapidapi-Key", "Private-Token", "Job-Token", "Deploy-Token", "Circle-Token",
		"X-Octopus-Apikey", "X-Nuget-Apikey", "X-Jfrog-Art-Api", "X-Vault-Token", "X-Vault-Namespace", "X-Consul-Token", "X-Nomad-Token",
		"Dd-Api-Key", "Dd-Application-Key", "X-Insert-Key", "X-Honeycomb-Team", "X-Scope-Orgid", "X-Shopify-Access-Token", "Stripe-Account",
		"Xero-Tenant-Id", "X-Tenant-Id", "X-Postmark-Server-Token", "X-Figma-Token", "X-Cisco-Meraki-Api-Key", "X-Algolia-Api-Key",
		"X-Parse-Session-Token", "X-Subscription-Token", "X-Riot-Token", "Client-Id", "X-Ibm-Client-Id", "X-Cmc_pro_api_key", "X-Mbx-Apikey",
		"Cb-Access-Key", "X-Amz-Access-Token", "Cf-Access-Client-Id",
		"X-API-Key", "PRIVATE-TOKEN", "DD-API-KEY", "x-vault-token", "authorization", // as they may be set in the map itself
	} {
		all["header "+name] = func(who string) tenant { return header(name, who) }
	}
	for _, name := range []string{
		"key", "token", "auth", "client_id", "api_key", "apikey", "apiKey", "api-key", "access_token", "auth_token", "api_token", "access_key",
		"private_token", "user_key", "app_key", "subscription-key", "quotaUser", "oauth_token", "AWSAccessKeyId", "GoogleAccessId", "skoid", "api%5Fkey",
		"API-Key", "APIKEY", "API_KEY", "accessToken", "access-token", "subscriptionKey", "xApiKey",
	} {
		all["query "+name] = func(who string) tenant { return query("q=1&" + name + "=" + who + "&page=2") }
	}
	for _, name := range []string{
		"JSESSIONID", "PHPSESSID", "ASP.NET_SessionId", "connect.sid", "sessionid", "__Host-sid", "SESSION", "__Secure-next-auth.session-token",
		"wordpress_logged_in_8f2c", "SSESS1a2b", "CF_Authorization", "grafana_session",
	} {
		all["cookie "+name] = func(who string) tenant { return header("Cookie", "theme=dark; "+name+"="+who) }
	}
	for name, text := range map[string]string{
		"basic":         "Basic %s",
		"bearer":        "Bearer %s",
		"AWS 4":         "AWS4-HMAC-SHA256 Credential=%s/20261128/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0",
		"AWS 2":         "AWS %s:signature",
		"Azure storage": "SharedKey %s:signature",
		"Service Bus":   "SharedAccessSignature sr=sb%%3A%%2F%%2Fns&sig=0&se=1&skn=%s",
		"Oracle":        `Signature version="1",keyId="ocid1.tenancy/%s/fingerprint",algorithm="rsa-sha256",signature="0"`,
		"Digest":        `Digest username="%s", realm="r", nonce="0", response="0"`,
		"OAuth 1":       `OAuth oauth_consumer_key="app", oauth_token="%s", oauth_nonce="0", oauth_signature="0"`,
		"EdgeGrid":      "EG1-HMAC-SHA256 client_token=%s;access_token=a;timestamp=t;nonce=n;signature=0",
		"Hawk":          `Hawk id="%s", ts="1", nonce="n", mac="0"`,
		"Tencent COS":   "q-sign-algorithm=sha1&q-ak=%s&q-sign-time=1;2&q-signature=0",
		"Baidu":         "bce-auth-v1/%s/2026-11-28T00:00:00Z/1800/host/0",
	} {
		all[name] = func(who string) tenant { return header("Authorization", fmt.Sprintf(text, who)) }
	}
	claims := func(format string) func(string) tenant {
		return func(who string) tenant { return header("Authorization", "Bearer "+jwtOf(fmt.Sprintf(format, who))) }
	}
	all["scheme of a dozen letters and more"] = func(who string) tenant { return header("Authorization", "ADozenLettersAndMore "+who) }
	all["signature by nobody"] = func(who string) tenant { return header("Authorization", "by-nobody-that-is-known;signature="+who) }
	all["JWT subject"] = claims(`{"iss":"i","sub":"%s"}`)
	all["JWT issuer"] = claims(`{"iss":"%s","sub":"s"}`)
	for _, claim := range []string{"azp", "client_id", "cid", "appid", "tid", "tenant", "tenant_id", "org_id"} {
		all["JWT "+claim] = claims(`{"iss":"i","sub":"s","` + claim + `":"%s"}`)
	}
	all["JWT without subject"] = claims(`{"iss":"i","jti":"%s"}`)
	all["AWS URL"] = func(who string) tenant {
		return query("X-Amz-Credential=" + who + "%2F20261128%2Fus-east-1&X-Amz-Signature=0")
	}
	all["Google URL"] = func(who string) tenant { return query("X-Goog-Credential=" + who + "%2F20261128&X-Goog-Signature=0") }
	for name, url := range map[string]string{
		"Telegram":            "https://api.telegram.org/bot123456:%s/sendMessage",
		"Telegram's files":    "https://api.telegram.org/file/bot123456:%s/photos/1.jpg",
		"a Telegram of one's": "http://127.0.0.1:8081/bot123456789:AAF-x1Yz2Wv3Ut4Sr5Qp6On7Ml8Kj%s/getMe",
		"Slack":               "https://hooks.slack.com/services/T00000000/B00000000/%s",
		"Slack's workflows":   "https://hooks.slack.com/workflows/T00000000/A00000000/1/%s",
		"Slack by a proxy":    "https://proxy.example.com/services/T00000000/B00000000/aB3dE5gH7jK9mN1p%s",
		"Discord":             "https://discord.com/api/webhooks/123456789012345678/%s/messages/1",
		"Discord's version":   "https://canary.discord.com/api/v10/webhooks/123456789012345678/%s?wait=true",
		"Discord by a proxy":  "http://proxy:8080/api/v10/webhooks/123456789012345678/" + strings.Repeat("aB3-", 15) + "%s",
		"Teams":               "https://x.webhook.office.com/webhookb2/a@b/IncomingWebhook/%s/c",
		"Feishu":              "https://open.feishu.cn/open-apis/bot/v2/hook/%s",
		"Zapier":              "https://hooks.zapier.com/hooks/catch/1/%s/",
		"IFTTT":               "https://maker.ifttt.com/trigger/x/with/key/%s",
		"PagerDuty":           "https://events.pagerduty.com/integration/%s/enqueue",
		"Infura":              "https://mainnet.infura.io/v3/%s",
		"Alchemy":             "https://eth-mainnet.g.alchemy.com/v2/%s/getNFTs",
	} {
		all["path of "+name] = func(who string) tenant { return at(fmt.Sprintf(url, who)) }
	}
	all["user of the URL"] = func(who string) tenant { return tenant{user: url.UserPassword(who, "p")} }
	all["second of two"] = func(who string) tenant { return header("Authorization", "Bearer x", "X-Api-Key", who) }
	all["second value"] = func(who string) tenant { return header("X-Api-Key", "x", "X-Api-Key", who) }
	return all
}

func TestEachCredentialTellsTenantsApart(t *testing.T) {
	l := &RateLimit{}
	nobody := l.keyOf(get(t))
	for name, of := range credentials() {
		t.Run(name, func(t *testing.T) {
			a, b := l.keyOf(of("tenant-a").request(t)), l.keyOf(of("tenant-b").request(t))
			assert.NotEqual(t, a, b)
			assert.NotEqual(t, nobody, a)
			assert.Equal(t, a, l.keyOf(of("tenant-a").request(t)))
			assert.NotContains(t, fmt.Sprintf("%+v", a), "tenant-a", "it is not kept")
		})
	}
	for _, table := range []*credentialIndex{headerSources, querySources, cookieSources} {
		for i, s := range table.sources {
			for _, name := range []string{s.name, strings.ToUpper(s.name), textproto.CanonicalMIMEHeaderKey(s.name)} {
				role, n := table.find(name)
				assert.Equal(t, s.role, role, name)
				assert.Equal(t, table.first+i, n, name)
			}
		}
	}
}

func TestARefusalOfOneTenantHoldsNoOther(t *testing.T) {
	for name, of := range credentials() {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				refused := false
				l := &RateLimit{MaxWait: time.Nanosecond, Base: rtFunc(func(req *http.Request) (*http.Response, error) {
					if !refused {
						refused = true
						return status(429, "Retry-After", "30")(req)
					}
					return status(200)(req)
				})}
				send := func(who string) error {
					resp, err := l.RoundTrip(of(who).request(t))
					if err == nil {
						require.NoError(t, resp.Body.Close())
					}
					return err
				}
				require.NoError(t, send("tenant-a"))
				require.NoError(t, send("tenant-b"))
				require.ErrorIs(t, send("tenant-a"), ErrWaitTooLong)
			})
		})
	}
}

func TestEachTenantHasTheWholeLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, of := range credentials() {
			l := &RateLimit{Limit: 1, Burst: 3, MaxWait: time.Nanosecond, Base: okBase{}}
			for _, who := range []string{"tenant-a", "tenant-b"} {
				for i := range 4 {
					_, err := l.RoundTrip(of(who).request(t))
					assert.Equal(t, i < 3, err == nil, "%s: request %d of %s", name, i, who)
				}
			}
		}
	})
}

func TestOneTenantHasOneKeyHoweverItIsWritten(t *testing.T) {
	long := strings.Repeat("x", 9<<10)
	for name, pair := range map[string][2]tenant{
		"case of a header":          {header("X-Api-Key", "a"), header("x-API-key", "a")},
		"case of a parameter":       {query("apikey=a"), query("apiKey=a")},
		"words of a parameter":      {query("api_key=a"), query("API-Key=a")},
		"case of a scheme":          {header("Authorization", "Bearer a"), header("Authorization", "bearer a")},
		"case of another scheme":    {header("Authorization", "Token a"), header("Authorization", "TOKEN a")},
		"blanks behind a scheme":    {header("Authorization", "Basic a"), header("Authorization", "BASIC \t  a ")},
		"a tab behind a scheme":     {header("Authorization", "Bearer a"), header("Authorization", "Bearer\ta")},
		"blanks":                    {header("X-Api-Key", "a"), header("X-Api-Key", " a ")},
		"an empty credential":       {header(), header("X-Api-Key", "", "Authorization", " ")},
		"an empty parameter":        {query("q=1"), query("api_key=&key")},
		"order of parameters":       {query("api_key=a&access_token=b"), query("access_token=b&x=1&api_key=a")},
		"percent-encoding":          {query("api_key=a+b%2Fc"), query("api%5fkey=%61%20b/c")},
		"order of cookies":          {header("Cookie", "sid=a; PHPSESSID=b"), header("Cookie", "x=1; PHPSESSID=b; sid=a")},
		"two Cookie headers":        {header("Cookie", "sid=a; PHPSESSID=b"), header("Cookie", "PHPSESSID=b", "Cookie", "sid=a")},
		"a cookie beside a key":     {header("X-Api-Key", "a"), header("X-Api-Key", "a", "Cookie", "JSESSIONID=b")},
		"what is no session":        {header(), header("Cookie", "_ga=1; _app_session=sealed; laravel_session=sealed; session=sealed")},
		"key beside a credential":   {tenant{headers: []string{"X-Api-Key", "a"}, query: "key=1"}, tenant{headers: []string{"X-Api-Key", "a"}, query: "key=2"}},
		"user of the URL":           {tenant{user: url.UserPassword("u", "p")}, tenant{user: url.UserPassword("u", "p"), headers: []string{"Authorization", "Basic dTpw"}}},
		"the proxy's":               {header("Proxy-Authorization", "Basic a"), header("Proxy-Authorization", "Basic b")},
		"a fresh Kerberos ticket":   {header("Authorization", "Negotiate YIIa"), header("Authorization", "Negotiate YIIb")},
		"signature of AWS 2":        {header("Authorization", "AWS a:1"), header("Authorization", "AWS a:2")},
		"signature of EdgeGrid":     {header("Authorization", "EG1-HMAC-SHA256 client_token=a;nonce=1;signature=1"), header("Authorization", "EG1-HMAC-SHA256 client_token=a;nonce=2;signature=2")},
		"signature of Hawk":         {header("Authorization", `Hawk id="a", ts="1", mac="1"`), header("Authorization", `Hawk id="a", ts="2", mac="2"`)},
		"signature of Service Bus":  {header("Authorization", "SharedAccessSignature sr=r&skn=a&sig=1&se=1"), header("Authorization", "SharedAccessSignature sr=r&skn=a&sig=2&se=2")},
		"signature of Tencent COS":  {header("Authorization", "q-ak=a&q-signature=1"), header("Authorization", "q-ak=a&q-signature=2")},
		"signature of an AWS URL":   {query("X-Amz-Credential=a%2F20261127&X-Amz-Signature=1"), query("X-Amz-Credential=a/20261128&X-Amz-Signature=2")},
		"signature of an Azure URL": {query("skoid=a&se=1&sig=1"), query("skoid=a&se=2&sig=2")},
		"a fresh JWT":               {header("Authorization", "Bearer "+signedJWT(`{"iss":"i","sub":"s","iat":1,"jti":"1"}`, "1")), header("Authorization", "Bearer "+signedJWT(`{"jti":"2","sub":"s","iss":"i","exp":2}`, "2"))},
		"a fresh JWT with blanks":   {header("Authorization", "Bearer "+spacedJWT("{\n", 1)), header("Authorization", "Bearer "+spacedJWT("{ ", 2))},
		"one that is bare":          {header("X-Auth-Token", spacedJWT("{\t", 1)), header("X-Auth-Token", spacedJWT("{\r", 2))},
		"a JWT beside a key":        {tenant{headers: []string{"X-Api-Key", "a"}, query: "token=" + spacedJWT("{", 1)}, tenant{headers: []string{"X-Api-Key", "a"}, query: "token=" + spacedJWT("{", 2)}},
		"a cursor beside a key":     {tenant{headers: []string{"X-Api-Key", "a"}, query: "token=eyJwYWdlIjoxfQ"}, tenant{headers: []string{"X-Api-Key", "a"}, query: "token=eyJwYWdlIjoyfQ"}},
		"a path beside a key":       {tenant{headers: []string{"X-Api-Key", "a"}, url: "https://mainnet.infura.io/v3/a"}, tenant{headers: []string{"X-Api-Key", "a"}, url: "https://mainnet.infura.io/v3/b"}},
		"a cookie beside a path":    {tenant{headers: []string{"Cookie", "JSESSIONID=a"}, url: "https://mainnet.infura.io/v3/a"}, tenant{headers: []string{"Cookie", "JSESSIONID=b"}, url: "https://mainnet.infura.io/v3/a"}},
		"methods of a bot":          {at("https://api.telegram.org/bot1:a/getMe"), at("https://api.telegram.org/bot1:a/sendMessage?chat_id=1")},
		"an escaped bot":            {at("https://api.telegram.org/bot1:a/getMe"), at("https://api.telegram.org/bot1%3Aa/getMe")},
		"messages of a hook":        {at("https://discord.com/api/webhooks/1/a"), at("https://discord.com/api/webhooks/1/a/messages/2")},
		"a fresh JWT in a header":   {header("X-Auth-Token", jwtOf(`{"iss":"i","sub":"s","iat":1}`)), header("X-Auth-Token", jwtOf(`{"iss":"i","sub":"s","iat":2}`))},
		"a fresh JWT in a query":    {query("access_token=" + jwtOf(`{"iss":"i","sub":"s","iat":1}`)), query("access_token=" + jwtOf(`{"iss":"i","sub":"s","iat":2}`))},
		"a fresh JWT in a cookie":   {header("Cookie", "access_token="+jwtOf(`{"iss":"i","sub":"s","iat":1}`)), header("Cookie", "access_token="+jwtOf(`{"iss":"i","sub":"s","iat":2}`))},
		"a JWT with an empty azp":   {header("Authorization", "Bearer "+jwtOf(`{"iss":"i","sub":"s","azp":null}`)), header("Authorization", "Bearer "+jwtOf(`{"iss":"i","sub":"s","tid":""}`))},
		"a fresh DPoP":              {header("Authorization", "DPoP "+jwtOf(`{"iss":"i","sub":"s","iat":1}`)), header("Authorization", "DPoP "+jwtOf(`{"iss":"i","sub":"s","iat":2}`))},
	} {
		t.Run(name, func(t *testing.T) {
			l := &RateLimit{}
			assert.Equal(t, l.keyOf(pair[0].request(t)), l.keyOf(pair[1].request(t)))
		})
	}
	for name, claims := range map[string][2]string{
		"no subject":               {`{"iss":"i","iat":1}`, `{"iss":"i","iat":2}`},
		"an empty subject":         {`{"iss":"i","sub":"","iat":1}`, `{"iss":"i","sub":"","iat":2}`},
		"a number for an issuer":   {`{"iss":1,"sub":"s","iat":1}`, `{"iss":1,"sub":"s","iat":2}`},
		"a claim twice":            {`{"iss":"i","sub":"a","sub":"s"}`, `{"iss":"i","sub":"b","sub":"s"}`},
		"other case":               {`{"ISS":"i","Sub":"s","iat":1}`, `{"ISS":"i","Sub":"s","iat":2}`},
		"not JSON":                 {`{"iss":"i","sub":"s","iat":1`, `{"iss":"i","sub":"s","iat":2`},
		"an array":                 {`["iss","sub",1]`, `["iss","sub",2]`},
		"too long":                 {`{"iss":"i","sub":"s","iat":1,"x":"` + long + `"}`, `{"iss":"i","sub":"s","iat":2,"x":"` + long + `"}`},
		"claims that run together": {`{"iss":"i","sub":"s","azp":"a"}`, `{"iss":"i","sub":"s","cid":"a"}`},
		"no UTF-8":                 {"{\"iss\":\"i\",\"sub\":\"s\xff\"}", "{\"iss\":\"i\",\"sub\":\"s\xfe\"}"},
		"no UTF-8 in a tenant":     {"{\"iss\":\"i\",\"sub\":\"s\",\"tid\":\"\xff\"}", "{\"iss\":\"i\",\"sub\":\"s\",\"tid\":\"\xfe\"}"},
		"half of a pair":           {`{"iss":"i","sub":"\ud800"}`, `{"iss":"i","sub":"\udfff"}`},
		"a number for a tenant":    {`{"iss":"i","sub":"s","org_id":1}`, `{"iss":"i","sub":"s","org_id":2}`},
	} {
		t.Run("JWT: "+name, func(t *testing.T) {
			l := &RateLimit{}
			a, b := header("Authorization", "Bearer "+jwtOf(claims[0])), header("Authorization", "Bearer "+jwtOf(claims[1]))
			assert.NotEqual(t, l.keyOf(a.request(t)), l.keyOf(b.request(t)), "its bytes count")
		})
	}
}

// A key for each thing that is asked for would be one that nothing is known of.
func TestAKeyIsNotOfWhatIsAskedFor(t *testing.T) {
	l := &RateLimit{}
	for _, pair := range [][2]tenant{
		{at("https://api.example.com/users/1"), at("https://api.example.com/users/2")},
		{at("https://api.example.com/u/0a1b2c3d-0a1b-4a1b-8a1b-0a1b2c3d4e5f"), at("https://api.example.com/u/0a1b2c3d-0a1b-4a1b-8a1b-0a1b2c3d4e60")},
		{at("https://bucket.s3.amazonaws.com/q7Zk2Wm9Xt4Bv8Lc3Hd6.jpg"), at("https://bucket.s3.amazonaws.com/w/y/q7Zk2Wm9Xt4Bv8Lc3Hd7")},
		{at("https://api.github.com/repos/o/r/commits/0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d"), at("https://api.github.com/repos/o/r/hooks/123/deliveries")},
		{at("https://api.example.com/api/webhooks/1/deliveries"), at("https://api.example.com/api/webhooks/123456789012345678/0a1b2c3d-0a1b-4a1b-8a1b-0a1b2c3d4e5f")},
		{at("https://api.example.com/services/T00000000/B00000000/x"), at("https://api.example.com/services/TODAY/BOOKINGS/q7Zk2Wm9Xt4Bv8Lc3Hd6")},
		{at("https://api.example.com/bot1:activate"), at("https://api.example.com/bots/q7Zk2Wm9Xt4Bv8Lc3Hd6q7Zk2Wm9Xt4Bv8Lc3Hd6")},
		{at("https://api.example.com/v3/0a1b2c3d4e5f60718293a4b5c6d7e8f9"), at("https://api.example.com/v2/0a1b2c3d4e5f60718293a4b5c6d7e8f9")},
		{at("https://notdiscord.com/api/webhooks/1/a"), at("https://discord.com.example.com/api/webhooks/1/b")},
		{at("https://discord.com/api/webhooks/1"), at("https://discord.com/api/webhooks/2/")},
		{at("https://hooks.slack.com/services"), at("https://hooks.slack.com/services//B/x")},
		{at("https://api.example.com/"), at("https://api.example.com")},
		{query("keyword=a&author=a&max_tokens=1&token_count=1&monkey=a"), query("keyword=b&author=b&max_tokens=2&token_count=2&monkey=b")},
		{query("page_token=a&pageToken=a&next_token=a&continuation_token=a"), query("page_token=b&pageToken=b&next_token=b&continuation_token=b")},
		{query("clientId=1&client-id=1"), query("clientId=2&client-id=2")},
		{query(strings.Repeat("api_", 20) + "key=1"), query("_=1&-=2")},
	} {
		a, b := pair[0].request(t), pair[1].request(t)
		assert.Zero(t, l.keyOf(a).credential, a.URL)
		assert.Zero(t, l.keyOf(b).credential, b.URL)
	}
}

// Whom the application's key is used for is told apart, too, where that is certain.
func TestTheUsersOfAnApplicationAreToldApart(t *testing.T) {
	l := &RateLimit{}
	for name, of := range map[string]func(who string) tenant{
		"Authorization": func(who string) tenant { return header("X-Api-Key", "app", "Authorization", "Bearer "+who) },
		"a header":      func(who string) tenant { return header("X-Api-Key", "app", "X-Auth-Token", who) },
		"Apple Music":   func(who string) tenant { return header("Authorization", "Bearer app", "Music-User-Token", who) },
		"access_token":  func(who string) tenant { return query("api_key=app&accessToken=" + who) },
		"Trello":        func(who string) tenant { return query("key=app&token=" + who) },
		"a JWT as token": func(who string) tenant {
			return tenant{headers: []string{"X-Api-Key", "app"}, query: "token=" + jwtOf(`{"iss":"i","sub":"`+who+`"}`)}
		},
	} {
		assert.NotEqual(t, l.keyOf(of("a").request(t)), l.keyOf(of("b").request(t)), name)
	}
	for name, of := range map[string]func(who string) tenant{
		"a session in passing": func(who string) tenant {
			return header("X-Api-Key", "app", "Cookie", "JSESSIONID="+who+"; AWSALB="+who)
		},
		"a coin": func(who string) tenant { return tenant{headers: []string{"X-Api-Key", "app"}, query: "token=" + who} },
	} {
		assert.Equal(t, l.keyOf(of("a").request(t)), l.keyOf(of("b").request(t)), name)
	}
}

func TestAFreshTokenForEachRequestIsOneKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		taken, refused, second := 0, 0, int64(0)
		l := &RateLimit{Base: rtFunc(func(req *http.Request) (*http.Response, error) {
			if now := time.Now().Unix(); now != second {
				taken, second = 0, now
			}
			if taken++; taken > 20 { // the server counts by subject
				refused++
				return status(429, "Retry-After", "1")(req)
			}
			return status(200)(req)
		})}
		for i := range 500 {
			req := get(t)
			req.Header.Set("Authorization", "Bearer "+jwtOf(fmt.Sprintf(`{"iss":"i","sub":"s","jti":"%d"}`, i)))
			resp, err := l.RoundTrip(req)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
		}
		assert.Len(t, l.Limits(), 1)
		assert.Less(t, refused, 50)
	})
}

func TestTellingCallersApartIsCheap(t *testing.T) {
	l := &RateLimit{}
	jwt := header("Authorization", "Bearer "+jwtOf(`{"iss":"i","sub":"s"}`)).request(t)
	l.keyOf(jwt)
	for name, req := range map[string]*http.Request{
		"bearer":              header("Authorization", "Bearer x", "Content-Type", "application/json", "Cookie", "theme=dark; sid=1").request(t),
		"query":               query("q=1&api_key=2").request(t),
		"no credential":       at("https://api.example.com/v1/files/file-BK7bzQj3FfZFXr7DbL6xJwfo?page-token=a_b").request(t),
		"path":                at("https://discord.com/api/v10/webhooks/123456789012345678/a").request(t),
		"a JWT that was seen": jwt,
	} {
		assert.Zero(t, testing.AllocsPerRun(100, func() { l.keyOf(req) }), name)
	}
}

func TestWhatIsRememberedOfTokensIsBounded(t *testing.T) {
	l := &RateLimit{}
	for i := range 10 * tokensKept {
		l.keyOf(header("Authorization", "Bearer "+jwtOf(fmt.Sprintf(`{"iss":"i","sub":"%d"}`, i))).request(t))
	}
	n := 0
	for i := range l.callers.tokens.Load() {
		if l.callers.tokens.Load()[i].Load() != nil {
			n++
		}
	}
	assert.LessOrEqual(t, n, tokensKept)
	assert.Greater(t, n, tokensKept/2)
}

func FuzzCallers(f *testing.F) {
	f.Add("Bearer "+jwtOf(`{"iss":"i","sub":"s"}`), "a=1&key=%zz", "sid=1; =;")
	f.Add("Hawk id=\"", "api_key=%", ";;")
	f.Add("bce-auth-v1", "=&&", "__Host-")
	f.Fuzz(func(t *testing.T, auth, query, cookie string) {
		req := get(t)
		req.Header.Set("Authorization", auth)
		req.Header.Set("Cookie", cookie)
		req.URL.RawQuery = query
		l := &RateLimit{}
		if a, b := l.keyOf(req), l.keyOf(req.Clone(t.Context())); a != b {
			t.Errorf("%v and %v", a, b)
		}
	})
}

// At a host that is not the service's, all of what is in a path has to look like it.
func TestATokenInAPathOfAnyHostHasItsWholeShape(t *testing.T) {
	token := strings.Repeat("aB3-_", 14)
	l := &RateLimit{}
	for path, want := range map[string]bool{
		"/bot12345:" + token[:30]:                                 true,
		"/bot1234:" + token[:30]:                                  false,
		"/bot1234x:" + token[:30]:                                 false,
		"/bot12345:" + token[:29]:                                 false,
		"/bot12345:" + token[:29] + ".x":                          false,
		"/bot12345":                                               false,
		"/services/T00000000/B0000000Z/" + token[:20]:             true,
		"/services/T0000000/B00000000/" + token[:20]:              false,
		"/services/t00000000/B00000000/" + token[:20]:             false,
		"/services/U00000000/B00000000/" + token[:20]:             false,
		"/services/Tasks-2026/B00000000/" + token[:20]:            false,
		"/services/T00000000/B0000000/" + token[:20]:              false,
		"/services/T00000000/C00000000/" + token[:20]:             false,
		"/services/T00000000/Bookings1/" + token[:20]:             false,
		"/services/T00000000/B00000000/" + token[:19]:             false,
		"/services/T00000000/B00000000/" + token[:20] + ".json":   false,
		"/api/webhooks/12345678901234567/" + token[:60]:           true,
		"/api/v10/webhooks/12345678901234567890/" + token[:60]:    true,
		"/api/webhooks/1234567890123456/" + token[:60]:            false,
		"/api/webhooks/123456789012345678901/" + token[:60]:       false,
		"/api/webhooks/1234567890123456x/" + token[:60]:           false,
		"/api/webhooks/12345678901234567/" + token[:59]:           false,
		"/api/webhooks/12345678901234567/" + token[:60] + ".json": false,
		"/api/v10/v1/webhooks/12345678901234567890/" + token[:60]: false,
		"/v1/api/webhooks/12345678901234567890/" + token[:60]:     false,
	} {
		req := at("https://example.com" + path).request(t)
		assert.Equal(t, want, l.keyOf(req).credential != 0, path)
	}
}
