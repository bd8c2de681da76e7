package sturdy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// allAdvice is every row of every table, by a name for it.
func allAdvice() map[string][languages]Advice {
	all := map[string][languages]Advice{}
	for i, row := range adviceByCause {
		all[fmt.Sprint("cause ", i)] = row.advice
	}
	for _, row := range adviceByCode {
		all["code "+row.class.String()+" "+row.codes[0]] = row.advice
	}
	for c, advice := range adviceByClass {
		all["class "+Class(c).String()] = advice
	}
	return all
}

func TestEveryClassHasAdvice(t *testing.T) {
	assert.Len(t, adviceByClass, len(classes))
	for c := range classes {
		e := &Error{Class: Class(c)}
		assert.Equal(t, adviceByClass[c][english], e.Advice("en"), Class(c).String())
		assert.Equal(t, adviceByClass[c][chinese], e.Advice("zh"), Class(c).String())
	}
	assert.Zero(t, (&Error{Class: 99, RetryAfter: time.Second, again: againYes}).Advice("en"), "a class of nobody's")
}

func TestEveryAdviceIsAnother(t *testing.T) {
	seen := map[string]string{}
	for name, advice := range allAdvice() {
		for _, a := range advice {
			for _, text := range []string{a.Cause, a.Remedy} {
				assert.Empty(t, seen[text], "%s says the same: %s", name, text)
				seen[text] = name
			}
		}
	}
}

func TestAdviceIsWrittenInWholeSentences(t *testing.T) {
	whole := [languages]struct{ sentence, separator string }{
		{`[A-Z]([^.]|\.\w)*\.`, " "}, // a stop may be within a name
		{`[^。]+。`, ""},
	}
	for name, advice := range allAdvice() {
		for l, a := range advice {
			w := whole[l]
			assert.Regexp(t, "^"+w.sentence+"$", a.Cause, name)
			// A wait may follow the remedy: that makes three.
			assert.Regexp(t, "^"+w.sentence+"("+w.separator+w.sentence+")?$", a.Remedy, name)
			for _, text := range []string{a.Cause, a.Remedy} {
				assert.Equal(t, strings.Join(strings.Fields(text), " "), text, "%s: spaces", name)
			}
		}
	}
}

// Names of fields, headers and the like stay as they are in any language, and
// nothing else does.
func TestAdviceIsInOneLanguage(t *testing.T) {
	word := regexp.MustCompile(`[A-Za-z][\w./]*\w`)
	name := regexp.MustCompile(`\w+(\.[A-Z]\w+)+|[A-Z]+_[A-Z]+|[A-Z][a-z]+ID|Param |Message|Authorization|Bearer`)
	mixed := regexp.MustCompile(`\p{Han}[A-Za-z0-9]|[A-Za-z0-9]\p{Han}|[!"'(),:;?]|\.(\W|$)|[a-z]+ [a-z]+| [，。：、]|[，。：、] `)
	for row, advice := range allAdvice() {
		en := advice[english].Cause + " " + advice[english].Remedy
		zh := advice[chinese].Cause + advice[chinese].Remedy
		assert.NotRegexp(t, `[^ -~]`, en, row)
		for _, text := range []string{advice[chinese].Cause, advice[chinese].Remedy} {
			assert.Regexp(t, `\p{Han}`, text, row)
			assert.NotRegexp(t, mixed, text, row)
		}
		for _, w := range word.FindAllString(zh, -1) {
			assert.Contains(t, en, w, row)
		}
		for _, n := range name.FindAllString(en, -1) {
			assert.Contains(t, zh, n, row)
		}
	}
}

func TestAdviceForALanguage(t *testing.T) {
	e := &Error{Class: ErrRateLimit, RetryAfter: 3 * time.Second}
	for _, lang := range []string{"zh", "ZH", "zh-CN", "zh_TW.UTF-8", "zh-Hant-HK", "zh.GB18030", "Zh_cn"} {
		assert.Contains(t, e.Advice(lang).Cause, "速率", lang)
		assert.Contains(t, e.Advice(lang).Remedy, "秒", lang)
	}
	for _, lang := range []string{"en", "en-GB", "EN_US.UTF-8", "", "C", "POSIX", "de", "ja-JP", "zho", "zhuang", "-zh", "en-zh", "_", "\x00"} {
		assert.Contains(t, e.Advice(lang).Cause, "rate limit", lang)
		assert.Contains(t, e.Advice(lang).Remedy, " 3 s ", lang)
	}
}

// Codes that the table names are those that Classify finds the class by, or
// some of OpenAI's that it need not know.
func TestCodesWithAdviceAreThoseOfTheirClass(t *testing.T) {
	other := map[string][]Class{
		"model_not_found":     {ErrPermissionDenied}, // with 403
		"slow_down":           {ErrRateLimit, ErrOverloaded},
		"rate_limit_exceeded": {ErrRequestTooLarge}, // of one that is above the limit by itself
	}
	seen := map[string]bool{}
	for _, row := range adviceByCode {
		for _, code := range row.codes {
			key := row.class.String() + " " + code
			assert.False(t, seen[key], "%s has two rows", key)
			seen[key] = true
			assert.Equal(t, strings.ToLower(code), code)
			if codeClasses[code] != row.class {
				assert.Contains(t, other[code], row.class, code)
			}
			for _, e := range []*Error{
				{Class: row.class, Code: code},
				{Class: row.class, Code: strings.ToUpper(code)},
				{Class: row.class, Type: code},
				{Class: row.class, Type: "invalid_request_error", Code: code},
			} {
				assert.Equal(t, row.advice[english], e.Advice("en"), code)
				assert.Equal(t, row.advice[chinese], e.Advice("zh"), code)
			}
			elsewhere := &Error{Class: ErrInternalServer, Code: code}
			assert.Equal(t, adviceByClass[ErrInternalServer][english], elsewhere.Advice("en"), "a gateway repeats %s", code)
		}
	}
	precise := &Error{Class: ErrQuotaExceeded, Type: "insufficient_quota", Code: "project_spend_limit_exceeded"}
	assert.Contains(t, precise.Advice("en").Cause, "project")
}

func TestAnswersGetAdviceOfTheirOwn(t *testing.T) {
	openai := func(typ, code, message string) string {
		if code != "null" {
			code = `"` + code + `"`
		}
		return `{"error":{"message":"` + message + `","type":"` + typ + `","param":null,"code":` + code + `}}`
	}
	const invalid = "invalid_request_error"
	seen := map[Advice]string{}
	for _, s := range []struct {
		status            int
		body              string
		cause, remedy     string // parts of them, in English
		causeZH, remedyZH string // and in Chinese
	}{
		{401, openai(invalid, "null", "Invalid Authentication"), "credential is missing", "Authorization header", "凭证缺失", "吊销"},
		{401, openai(invalid, "invalid_api_key", "Incorrect API key provided: sk-proj-********MxYA."), "not one that the service knows", "new key", "不认识", "新建"},
		{401, openai(invalid, "no_organization", "You must be a member of an organization to use the API"), "not a member of any organization", "invite", "不是任何组织的成员", "邀请"},
		{401, openai(invalid, "mismatched_organization", "OpenAI-Organization header should match organization for API key"), "not the one that the key belongs to", "header out", "不一致", "请求头"},
		{401, openai(invalid, "invalid_organization", "No such organization: org-abc."), "organization that the request names does not exist", "id in the organization header", "组织不存在", "标识"},
		{401, openai(invalid, "account_deactivated", "This key is associated with a deactivated account."), "deactivated", "support", "停用", "技术支持"},
		{401, openai(invalid, "ip_not_authorized", "Your request IP does not match the configured IP allowlist."), "IP address", "list", "IP 地址", "许可名单"},
		{401, openai(invalid, "missing_scope", "Missing scopes: api.responses.write."), "scope", "role", "权限范围", "角色"},
		{403, openai("request_forbidden", "unsupported_country_region_territory", "Country, region, or territory not supported"), "country", "VPN", "国家", "VPN"},
		{403, openai(invalid, "model_not_found", "Project `proj_x` does not have access to model `gpt-x`."), "no access to this model", "project", "无权使用该模型", "项目"},
		{404, openai(invalid, "model_not_found", "The model `gpt-x` does not exist or you do not have access to it."), "model does not exist", "misspelt", "模型不存在", "拼写"},
		{404, `{"error":{"code":"DeploymentNotFound","message":"The API deployment for this resource does not exist."}}`, "no deployment", "minutes", "部署不存在", "分钟"},
		{404, "404 page not found\n", "does not exist", "path", "不存在", "路径"},
		{400, openai(invalid, "context_length_exceeded", "This model's maximum context length is 4097 tokens."), "longer than the model takes", "Shorten", "长度", "缩短"},
		{400, openai(invalid, "unsupported_parameter", "Unsupported parameter: 'max_tokens'."), "as it stands", "documentation", "不接受", "文档"},
		{400, openai(invalid, "content_policy_violation", "Your request was rejected as a result of our safety system."), "content filter", "Reword", "过滤器", "改写"},
		{400, openai(invalid, "billing_hard_limit_reached", "Billing hard limit has been reached"), "organization has reached the spending limit", "administrator", "组织已达到", "管理员"},
		{409, openai(invalid, "null", "Conflict"), "another change", "present state", "冲突", "最新状态"},
		{422, openai(invalid, "null", "Unprocessable"), "well formed", "once more", "格式正确", "再发送一次"},
		{429, openai("tokens", "rate_limit_exceeded", "Rate limit reached for gpt-x on tokens per min (TPM): Limit 30000, Used 29000, Requested 2000. Please try again in 2s."), "rate limit", "Pace your requests", "速率限制", "节奏"},
		{429, openai("tokens", "rate_limit_exceeded", "Request too large for gpt-x on tokens per min (TPM): Limit 30000, Requested 36278."), "request alone", "Waiting does not help", "单是这一个请求", "等待没有用"},
		{429, openai("rate_limit_error", "slow_down", "Slow down"), "rose faster", "RateLimit.Limit", "上升过快", "RateLimit.Limit"},
		{429, openai("insufficient_quota", "insufficient_quota", "You exceeded your current quota, please check your plan and billing details."), "credits are used up", "Buy credits", "余额已经用完", "充值"},
		{429, openai("billing_not_active", "null", "Your account is not active, please check your billing details on our website."), "Billing is not active", "payment", "未启用", "付款"},
		{429, openai("insufficient_quota", "credit_balance_exhausted", "You exceeded your current quota."), "prepaid", "Add credit", "预付", "充值"},
		{429, openai("insufficient_quota", "project_spend_limit_exceeded", "You exceeded your current quota."), "project", "settings of the project", "项目已达到", "项目设置"},
		{429, openai("insufficient_quota", "organization_usage_limit_exceeded", "You exceeded your current quota."), "as much as the service allows", "higher usage limit", "用量", "申请"},
		{402, `{"error":{"code":402,"message":"Something about money"}}`, "allowance", "console", "额度", "控制台"},
		{500, openai("server_error", "null", "The server had an error while processing your request."), "service failed", "RequestID", "出错", "RequestID"},
		{503, openai("service_unavailable_error", "server_is_overloaded", "The server is overloaded."), "more to do", "busy times", "负载过高", "繁忙时段"},
		{503, openai("server_error", "slow_down", "Slow down"), "asks its clients", "RateLimit.Limit", "要求客户端", "RateLimit.Limit"},
		{504, "<html><center>nginx</center></html>", "No answer came in time", "Timeout.Header", "规定时间", "截止时间"},
		{413, "<html><center>nginx</center></html>", "larger than the service ever takes", "split", "上限", "拆分"},
	} {
		e := Classify(answer(get(t), s.status, s.body), nil)
		require.NotNil(t, e)
		en, zh := e.Advice("en"), e.Advice("zh-CN")
		assert.Contains(t, en.Cause, s.cause, s.body)
		assert.Contains(t, en.Remedy, s.remedy, s.body)
		assert.Contains(t, zh.Cause, s.causeZH, s.body)
		assert.Contains(t, zh.Remedy, s.remedyZH, s.body)
		assert.Empty(t, seen[en], s.body)
		seen[en] = s.body
	}
}

// The chains are those that net/http makes.
func TestConnectionsThatFailGetAdviceOfTheirOwn(t *testing.T) {
	op := func(op string, err error) error { return &net.OpError{Op: op, Net: "tcp", Err: err} }
	refused := op("dial", os.NewSyscallError("connect", syscall.ECONNREFUSED))
	unknown := op("dial", &net.DNSError{Err: "no such host", Name: "api.example.invalid", IsNotFound: true})
	untrusted := &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}
	slow := op("dial", os.ErrDeadlineExceeded)

	const (
		proxy = "The proxy could not be reached"
		name  = "host name in the URL does not exist"
		cert  = "could not be verified"
		other = "could not be reached, or the connection to it broke"
	)
	for _, f := range []struct {
		name  string
		err   error
		cause string
	}{
		{"refused", refused, "server refused the connection"},
		{"no such host", unknown, name},
		{"resolver down", op("dial", &net.DNSError{Err: "server misbehaving", IsTemporary: true}), "could not be looked up"},
		{"resolver silent", op("dial", &net.DNSError{Err: "i/o timeout", IsTimeout: true}), "could not be looked up"},
		{"unknown authority", untrusted, cert},
		{"host name", &tls.CertificateVerificationError{Err: x509.HostnameError{Certificate: &x509.Certificate{}, Host: "x"}}, cert},
		{"expired", x509.CertificateInvalidError{Cert: &x509.Certificate{}, Reason: x509.Expired}, cert},
		{"certificate of a proxy", op("proxyconnect", untrusted), cert},
		{"proxy refused", op("proxyconnect", refused), proxy},
		{"proxy unknown", op("proxyconnect", unknown), proxy},
		{"proxy slow", op("proxyconnect", slow), proxy},
		{"SOCKS proxy", op("socks connect", errors.New("connection refused")), proxy},
		{"proxy wants a password", errors.New("Proxy Authentication Required"), proxy},
		{"dial timeout", slow, "No connection to the service came about in time"},
		{"TLS alert", op("remote error", tls.AlertError(70)), "could not agree"},
		{"plain HTTP at an HTTPS port", http.ErrSchemeMismatch, "could not agree"},
		{"bad scheme", errors.New(`unsupported protocol scheme "htps"`), "not one that net/http can send"},
		{"bad header", errors.New(`net/http: invalid header field value for "Authorization"`), "not one that net/http can send"},
		{"not HTTP", fmt.Errorf("net/http: HTTP/1.x transport connection broken: %w", errors.New(`malformed HTTP response "SSH-2.0-x"`)), "not HTTP"},
		{"reset", op("read", os.NewSyscallError("read", syscall.ECONNRESET)), other},
		{"cut", io.ErrUnexpectedEOF, other},
		{"header timeout", op("read", os.ErrDeadlineExceeded), "No answer came in time"},
		{"Timeout.Header", &Error{Class: ErrTimeout, Err: errHeaderTimeout}, "No answer came in time"},
		{"deadline", context.DeadlineExceeded, "time that the caller allowed ran out"},
		{"cancelled", context.Canceled, "caller gave the request up"},
		{"turn too late", refusal(ErrWaitTooLong, time.Second, fmt.Errorf("its turn: %w", context.DeadlineExceeded)), "turn would have come too late"},
		{"circuit open", refusal(ErrCircuitOpen, time.Second, untrusted), "circuit to it is open"},
	} {
		e := Classify(nil, &url.Error{Op: "Get", URL: "https://api.example.com/", Err: f.err})
		require.NotNil(t, e, f.name)
		assert.Contains(t, e.Advice("en").Cause, f.cause, f.name)
		assert.Equal(t, e.advice()[chinese].Cause, e.Advice("zh").Cause, f.name)
	}
}

func TestAdviceNeverSaysToTrustAnybody(t *testing.T) {
	for name, advice := range allAdvice() {
		for _, a := range advice {
			assert.NotRegexp(t, `(?i)insecure|skip|disable|turn off|关闭验证|跳过|禁用`, a.Remedy, name)
		}
	}
}

func TestAdviceHoldsNoTextOfTheErrors(t *testing.T) {
	const secret = "sk-secret-canary"
	for c := range classes {
		e := &Error{
			Class: Class(c), StatusCode: 400, Code: secret, Type: secret, Param: secret, Message: secret, RequestID: secret,
			RetryAfter: time.Minute, Err: &url.Error{Op: secret, URL: "https://" + secret, Err: errors.New(secret)},
		}
		for _, lang := range []string{"en", "zh", secret} {
			a := e.Advice(lang)
			assert.NotContains(t, a.Cause+a.Remedy, "canary", Class(c).String())
		}
	}
}

func TestAdviceNamesTheWaitRoundedUp(t *testing.T) {
	for _, w := range []struct {
		wait   time.Duration
		en, zh string
	}{
		{1, "1 s", "1 秒"},
		{1500 * time.Millisecond, "2 s", "2 秒"},
		{time.Minute, "1 min", "1 分钟"},
		{59*time.Second + 1, "1 min", "1 分钟"},
		{9*time.Minute + 38016*time.Millisecond, "9 min 39 s", "9 分钟 39 秒"},
		{time.Hour, "1 h", "1 小时"},
		{time.Hour + time.Second, "1 h 1 min", "1 小时 1 分钟"},
		{24*time.Hour - time.Second, "1 d", "1 天"},
		{24*time.Hour + time.Second, "1 d 1 h", "1 天 1 小时"},
		{math.MaxInt64, "106751 d 23 h", "106751 天 23 小时"},
	} {
		e := &Error{Class: ErrOverloaded, StatusCode: 503, RetryAfter: w.wait}
		plain := adviceByClass[ErrOverloaded]
		assert.Equal(t, plain[english].Remedy+" Wait at least "+w.en+" before you send it again.", e.Advice("en").Remedy)
		assert.Equal(t, plain[chinese].Remedy+"请至少等待 "+w.zh+"后再发送。", e.Advice("zh").Remedy)
		assert.Equal(t, plain[english].Cause, e.Advice("en").Cause)
	}
	for _, e := range []*Error{
		{Class: ErrOverloaded},
		{Class: ErrOverloaded, RetryAfter: -time.Second},
		{Class: ErrOverloaded, RetryAfter: time.Second, again: againNever},
		{Class: ErrQuotaExceeded, RetryAfter: time.Second},
		{Class: ErrRequestTooLarge, RetryAfter: time.Second},
		{RetryAfter: time.Second},
	} {
		assert.NotContains(t, e.Advice("en").Remedy, "Wait at least", "%+v", e)
	}
}
