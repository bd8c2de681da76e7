package sturdy

import (
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Advice is what to make of an error, in plain words. No text of the server's
// or of the request's is in it, so it holds no secret.
type Advice struct {
	Cause  string // what went wrong, in one sentence
	Remedy string // what to do about it, in one to three sentences
}

// Advice returns the cause of the error and its remedy in a language: "en" for
// English, "zh" for simplified Chinese, or a tag such as "zh-CN" or
// "zh_CN.UTF-8". Any other language gets English.
//
// If the request may be sent again and RetryAfter is known, the remedy names
// the wait. An Error whose Class is none of this package's gets no advice.
func (e *Error) Advice(lang string) Advice {
	l := languageOf(lang)
	a := e.advice()[l]
	if e.RetryAfter > 0 && e.Retryable() && a.Remedy != "" {
		a.Remedy += waitSentence(e.RetryAfter, l)
	}
	return a
}

// A language is an index of what is said in each of them.
type language int

const (
	english language = iota
	chinese
	languages
)

// languageOf looks at the language alone: neither the script nor the region of
// a tag, nor the encoding of a locale, makes a difference.
func languageOf(tag string) language {
	lang := before(tag, func(r rune) bool { return strings.ContainsRune("-_.", r) })
	if strings.EqualFold(lang, "zh") {
		return chinese
	}
	return english
}

// advice is the most specific that there is: by the cause, by the server's
// code, by the class.
func (e *Error) advice() [languages]Advice {
	if e.Err != nil {
		class := e.Class
		if class == 0 && ofDeadline(e) {
			class = ErrTimeout
		}
		for _, row := range adviceByCause {
			if (class == row.class || class.kindOf(row.class)) && row.is(e) {
				return row.advice
			}
		}
	}
	for _, code := range [...]string{e.Code, e.Type} {
		for _, row := range adviceByCode {
			if e.Class == row.class && slices.Contains(row.codes, strings.ToLower(code)) {
				return row.advice
			}
		}
	}
	if int(e.Class) < len(adviceByClass) {
		return adviceByClass[e.Class]
	}
	return [languages]Advice{}
}

// waitSentence follows a remedy.
func waitSentence(d time.Duration, l language) string {
	// Rounded up: who comes back too early is refused again.
	d = roundedUp(d, time.Second)
	if d > time.Hour {
		d = roundedUp(d, time.Minute)
	}
	if d > 24*time.Hour {
		d = roundedUp(d, time.Hour)
	}
	var parts []string
	for _, unit := range [...]struct {
		length time.Duration
		names  [languages]string
	}{
		{24 * time.Hour, [...]string{" d", " 天"}},
		{time.Hour, [...]string{" h", " 小时"}},
		{time.Minute, [...]string{" min", " 分钟"}},
		{time.Second, [...]string{" s", " 秒"}},
	} {
		if n := d / unit.length; n > 0 {
			parts = append(parts, strconv.Itoa(int(n))+unit.names[l])
		}
		d %= unit.length
	}
	wait := strings.Join(parts, " ")
	if l == chinese {
		return "请至少等待 " + wait + "后再发送。"
	}
	return " Wait at least " + wait + " before you send it again."
}

func roundedUp(d, unit time.Duration) time.Duration {
	return saturated(d, unit-1).Truncate(unit)
}

// adviceByCause is for errors of the transport's, and for the caller's own: the
// first that applies, in a class or in a kind of it.
var adviceByCause = [...]struct {
	class  Class
	is     func(*Error) bool
	advice [languages]Advice
}{
	{ErrTimeout, ofDeadline, [...]Advice{
		{
			"The time that the caller allowed ran out before the answer was there.",
			"Allow more time in the context's deadline or in http.Client.Timeout, or ask for less in one request. Set Timeout.Header so that a slow attempt is given up early enough for another.",
		},
		{
			"调用方允许的时间在收到响应之前已经用完。",
			"请通过 context 的截止时间或 http.Client.Timeout 留出更多时间，或者减少单次请求的内容。设置 Timeout.Header 可以及早放弃缓慢的尝试，为下一次尝试留出时间。",
		},
	}},
	{ErrConnection, ofCertificate, [...]Advice{
		{
			"The TLS certificate of the server, or of a proxy on the way, could not be verified.",
			"Check the clock of this machine, the host name in the URL and the root certificates that are installed. If a proxy inspects the traffic, or the server has a private authority, add the certificate of that authority to the trusted roots.",
		},
		{
			"无法验证服务器或途中代理的 TLS 证书。",
			"请检查本机时钟、URL 中的主机名以及已安装的根证书。如果有代理检查流量，或者服务器使用私有证书颁发机构，请把该机构的证书加入受信任的根证书。",
		},
	}},
	{ErrConnection, ofProxy, [...]Advice{
		{
			"The proxy could not be reached, or did not let the request through.",
			"Check HTTPS_PROXY, HTTP_PROXY and NO_PROXY, or the Proxy field of the http.Transport: the address, the port, and the user and password that the proxy may ask for. Check too that the proxy may connect to the service.",
		},
		{
			"无法连接到代理，或者代理没有放行请求。",
			"请检查环境变量 HTTPS_PROXY、HTTP_PROXY 和 NO_PROXY，或者 http.Transport 的 Proxy 字段：地址、端口，以及代理可能要求的用户名和密码。还要确认代理可以连接该服务。",
		},
	}},
	{ErrConnection, ofUnknownName, [...]Advice{
		{
			"The host name in the URL does not exist.",
			"Check its spelling. A name that exists only within a company or a VPN needs the name servers of that network.",
		},
		{
			"URL 中的主机名不存在。",
			"请检查主机名的拼写。只在公司内网或 VPN 中存在的名称，需要使用该网络的域名服务器。",
		},
	}},
	{ErrConnection, ofLookup, [...]Advice{
		{
			"The host name could not be looked up, because no name server answered as it should.",
			"Check the network connection, and the name servers that this machine uses. Such trouble is often over soon: send the request again later.",
		},
		{
			"无法解析主机名，因为域名服务器没有正常应答。",
			"请检查网络连接以及本机使用的域名服务器。这类故障往往很快就会过去，可以稍后重新发送请求。",
		},
	}},
	{ErrConnection, ofRefusal, [...]Advice{
		{
			"The server refused the connection.",
			"Check that the host and the port in the URL are right, and that the service is running there. A firewall may refuse connections too.",
		},
		{
			"服务器拒绝了连接。",
			"请检查 URL 中的主机名和端口是否正确，以及服务是否正在那里运行。防火墙也可能拒绝连接。",
		},
	}},
	{ErrTimeout, ofConnecting, [...]Advice{
		{
			"No connection to the service came about in time.",
			"Check the network, and the host and the port in the URL. A firewall may drop the packets without a word, or the network may require a proxy.",
		},
		{
			"未能及时建立到服务的连接。",
			"请检查网络以及 URL 中的主机名和端口。可能有防火墙在悄悄丢弃数据包，也可能该网络要求使用代理。",
		},
	}},
	{ErrConnection, ofHandshake, [...]Advice{
		{
			"The two sides could not agree on a TLS connection.",
			"Check that the port in the URL is one for HTTPS, and that both sides have a version of TLS in common. The server may also ask for a client certificate, or a firewall or a proxy may interfere.",
		},
		{
			"双方未能就 TLS 连接达成一致。",
			"请确认 URL 中的端口用于 HTTPS，并且双方支持共同的 TLS 版本。也可能是服务器要求客户端证书，或者防火墙或代理从中干扰。",
		},
	}},
	{ErrConnection, ofRequest, [...]Advice{
		{
			"The request is not one that net/http can send.",
			"Check the scheme and the host in the URL and in the proxy settings, the method, and the headers. A line break at the end of a key is a frequent cause.",
		},
		{
			"net/http 无法发送这样的请求。",
			"请检查 URL 和代理设置中的协议与主机名、请求方法以及请求头。密钥末尾多出换行符是常见的原因。",
		},
	}},
	{ErrConnection, ofAnswer, [...]Advice{
		{
			"What came back is not HTTP as it should be.",
			"Check that the scheme, the host and the port in the URL are those of the service. If they are, a proxy on the way or the server itself is at fault.",
		},
		{
			"返回的内容不符合 HTTP 规范。",
			"请检查 URL 中的协议、主机名和端口是否属于该服务。如果没有问题，则是途中的代理或服务器本身有故障。",
		},
	}},
}

func ofDeadline(e *Error) bool {
	return endOfContext(e.Err) && errors.Is(e.Err, context.DeadlineExceeded)
}

func ofCertificate(e *Error) bool {
	_, ok := certificate(e.Err)
	return ok
}

// ofProxy comes before the faults that a proxy can have as a server has them.
func ofProxy(e *Error) bool {
	if op, ok := errors.AsType[*net.OpError](e.Err); ok && (op.Op == "proxyconnect" || op.Op == "socks connect") {
		return true
	}
	_, ok := proxyStatus(e.Err)
	return ok
}

func ofUnknownName(e *Error) bool {
	dns, ok := errors.AsType[*net.DNSError](e.Err)
	return ok && dns.IsNotFound
}

func ofLookup(e *Error) bool {
	_, ok := errors.AsType[*net.DNSError](e.Err)
	return ok
}

func ofRefusal(e *Error) bool { return errors.Is(e.Err, syscall.ECONNREFUSED) }

// ofConnecting tells a timeout before the request was sent, which is the
// network's, from one of the service's.
func ofConnecting(e *Error) bool { return e.unsent }

func ofHandshake(e *Error) bool {
	_, ok := handshake(e.Err)
	return ok
}

func ofRequest(e *Error) bool {
	_, ok := wrongRequest(e.Err)
	return ok
}

// ofAnswer leaves out the answers that may have been cut on their way.
func ofAnswer(e *Error) bool {
	v, ok := wrongAnswer(e.Err)
	return ok && v.again == againNever
}

// adviceByCode is for codes and types, in lower case, that say more than the
// class that they are found in.
var adviceByCode = [...]struct {
	class  Class
	codes  []string
	advice [languages]Advice
}{
	{ErrAuthentication, []string{"invalid_api_key", "incorrect_api_key"}, [...]Advice{
		{
			"The API key is not one that the service knows.",
			"Compare it with the key in the service's console: it may be mistyped or cut short, have a blank or a line break at its end, or have been deleted. Make a new key if need be.",
		},
		{
			"服务不认识这个 API 密钥。",
			"请与服务控制台中的密钥核对：它可能输入有误或不完整，末尾多了空格或换行，或者已被删除。必要时请新建一个密钥。",
		},
	}},
	{ErrAuthentication, []string{"expired_key"}, [...]Advice{
		{
			"The API key has expired.",
			"Make a new key and put it in the place of this one.",
		},
		{
			"API 密钥已经过期。",
			"请新建一个密钥来替换它。",
		},
	}},
	{ErrAuthentication, []string{"no_organization"}, [...]Advice{
		{
			"The account that the key belongs to is not a member of any organization.",
			"Have an administrator of the organization invite the account, or use a key of an account that is in one.",
		},
		{
			"密钥所属的账户不是任何组织的成员。",
			"请让组织的管理员邀请该账户加入，或者换用已加入组织的账户的密钥。",
		},
	}},
	{ErrAuthentication, []string{"mismatched_organization"}, [...]Advice{
		{
			"The organization that the request names is not the one that the key belongs to.",
			"Leave the organization header out, or set it to the organization of the key. An SDK may have set it from the environment.",
		},
		{
			"请求中指定的组织与密钥所属的组织不一致。",
			"请去掉指定组织的请求头，或者把它设为密钥所属的组织。这个请求头可能是 SDK 根据环境变量设置的。",
		},
	}},
	{ErrAuthentication, []string{"invalid_organization"}, [...]Advice{
		{
			"The organization that the request names does not exist.",
			"Correct the id in the organization header, or leave the header out, so that the organization of the key is used.",
		},
		{
			"请求中指定的组织不存在。",
			"请更正组织请求头中的标识，或者去掉这个请求头，改用密钥所属的组织。",
		},
	}},
	{ErrAuthentication, []string{"account_deactivated"}, [...]Advice{
		{
			"The account that the key belongs to has been deactivated.",
			"Have the owner of the account write to the service's support. Another key of the same account will not work either.",
		},
		{
			"密钥所属的账户已被停用。",
			"请由账户所有者联系服务的技术支持。同一账户的其他密钥也无法使用。",
		},
	}},
	{ErrAuthentication, []string{"ip_not_authorized"}, [...]Advice{
		{
			"The request came from an IP address that the organization does not allow.",
			"Send it from an allowed address, or have the public address of this network added to the organization's list. Behind a proxy, the address of the proxy is the one that counts.",
		},
		{
			"请求来自组织未许可的 IP 地址。",
			"请从许可的地址发送，或者把本网络的公网地址加入组织的许可名单。如果经过代理，则以代理的地址为准。",
		},
	}},

	{ErrPermissionDenied, []string{"missing_scope"}, [...]Advice{
		{
			"The key lacks a scope that this operation needs.",
			"Give the key that scope, or use one that has it. Check also the role of the key's owner in the organization and in the project.",
		},
		{
			"密钥缺少该操作所需的权限范围。",
			"请为密钥添加这一权限范围，或者换用具备该范围的密钥。还要检查密钥所有者在组织和项目中的角色。",
		},
	}},
	{ErrPermissionDenied, []string{"unsupported_country_region_territory"}, [...]Advice{
		{
			"The service is not offered in the country or region that the request came from.",
			"See in the service's documentation where it is offered. A proxy, a VPN or a cloud region may make requests come from elsewhere than you think.",
		},
		{
			"请求来自服务尚不支持的国家或地区。",
			"请在服务的文档中查看支持的国家和地区。代理、VPN 或云区域都可能使请求的来源与预想的不同。",
		},
	}},
	{ErrPermissionDenied, []string{"model_not_found", "key_model_access_denied"}, [...]Advice{
		{
			"The key, or the project that it belongs to, has no access to this model.",
			"Have the model enabled for the project, or name a model that the key may use: the API's list of models shows which.",
		},
		{
			"密钥或其所属项目无权使用该模型。",
			"请为项目开通该模型，或者改用密钥有权使用的模型，具体可以查看 API 的模型列表。",
		},
	}},

	{ErrNotFound, []string{"model_not_found"}, [...]Advice{
		{
			"The model does not exist, or the key may not use it.",
			"Compare the model's name with the API's list of models: it may be misspelt, or the model may have been retired. Some models are open to certain accounts, plans or regions only.",
		},
		{
			"模型不存在，或者密钥无权使用。",
			"请对照 API 的模型列表检查模型名称：可能拼写有误，也可能该模型已经下线。有些模型只对特定的账户、套餐或地区开放。",
		},
	}},
	{ErrNotFound, []string{"deploymentnotfound"}, [...]Advice{
		{
			"There is no deployment of the name that is in the URL.",
			"Check the names of the deployment and of the resource: that of a deployment may differ from that of its model. One that was made just now takes some minutes to appear.",
		},
		{
			"URL 中指定的部署不存在。",
			"请检查部署和资源的名称：部署的名称可能与其模型的名称不同。刚创建的部署需要几分钟才会出现。",
		},
	}},

	{ErrRequestTooLarge, []string{"rate_limit_exceeded"}, [...]Advice{
		{
			"This request alone is larger than the rate limit.",
			"Waiting does not help. Shorten the input, ask for fewer output tokens, or have the limit raised.",
		},
		{
			"单是这一个请求就超过了速率限制。",
			"等待没有用。请缩短输入、减少请求的输出 token 数，或者申请提高限额。",
		},
	}},

	{ErrRateLimit, []string{"slow_down"}, [...]Advice{
		{
			"The rate of requests rose faster than the service can follow.",
			"Go back to the earlier rate, hold it for about a quarter of an hour, then raise it in small steps: RateLimit.Limit sets it. This happens below the rate limit too.",
		},
		{
			"请求速率上升过快，服务来不及适应。",
			"请退回之前的速率，保持一刻钟左右，再逐步提高，速率由 RateLimit.Limit 设定。即使没有达到速率限制，也会出现这种情况。",
		},
	}},
	{ErrOverloaded, []string{"slow_down"}, [...]Advice{
		{
			"The service has too much to do and asks its clients to slow down.",
			"Lower the rate of requests with RateLimit.Limit. Raise it in small steps once the answers come as usual.",
		},
		{
			"服务负载过高，要求客户端放慢速度。",
			"请用 RateLimit.Limit 降低请求速率。待响应恢复正常后，再逐步提高。",
		},
	}},

	{ErrQuotaExceeded, []string{"insufficient_quota"}, [...]Advice{
		{
			"The credits are used up, or the spending limit of the month is reached.",
			"Buy credits or raise the limit, in the billing settings of the organization that the key belongs to. Neither slowing down nor sending again helps.",
		},
		{
			"余额已经用完，或者已达到当月的消费上限。",
			"请在密钥所属组织的账单设置中充值或提高上限。放慢速度或重新发送都没有用。",
		},
	}},
	{ErrQuotaExceeded, []string{"credit_balance_exhausted", "insufficient_balance", "insufficient_credits", "insufficient_user_quota"}, [...]Advice{
		{
			"The prepaid credit is used up.",
			"Add credit in the billing settings, or have it added automatically. It may take some minutes to count.",
		},
		{
			"预付余额已经用完。",
			"请在账单设置中充值，或者开启自动充值。充值后可能需要几分钟才会生效。",
		},
	}},
	{ErrQuotaExceeded, []string{"billing_not_active"}, [...]Advice{
		{
			"Billing is not active for the account.",
			"Complete or renew the payment details in the billing settings, and look for an invoice that is not paid.",
		},
		{
			"账户的计费功能未启用。",
			"请在账单设置中补全或更新付款信息，并检查是否有未付的账单。",
		},
	}},
	{ErrQuotaExceeded, []string{"organization_spend_limit_exceeded", "billing_hard_limit_reached"}, [...]Advice{
		{
			"The organization has reached the spending limit that was set for it.",
			"Have an administrator raise the limit in the billing settings, or wait until the next billing period begins.",
		},
		{
			"组织已达到为其设定的消费上限。",
			"请让管理员在账单设置中提高上限，或者等到下一个计费周期开始。",
		},
	}},
	{ErrQuotaExceeded, []string{"project_spend_limit_exceeded"}, [...]Advice{
		{
			"The project has reached the spending limit that was set for it.",
			"Have an administrator raise the limit in the settings of the project, or wait until it is reset.",
		},
		{
			"项目已达到为其设定的消费上限。",
			"请让管理员在项目设置中提高上限，或者等到上限重置。",
		},
	}},
	{ErrQuotaExceeded, []string{"organization_usage_limit_exceeded"}, [...]Advice{
		{
			"The organization has used as much as the service allows it.",
			"Ask the service for a higher usage limit, or wait until the usage is counted from zero again.",
		},
		{
			"组织的用量已达到服务允许的上限。",
			"请向服务申请更高的用量上限，或者等到用量重新计算。",
		},
	}},
}

// adviceByClass is for all the rest.
var adviceByClass = [...][languages]Advice{
	0: {
		{
			"The caller gave the request up before the answer was there.",
			"This says nothing of the service. Send the request again if the answer is still wanted.",
		},
		{
			"调用方在收到响应之前放弃了请求。",
			"这并不说明服务有问题。如果仍然需要响应，请重新发送请求。",
		},
	},
	ErrConnection: {
		{
			"The service could not be reached, or the connection to it broke.",
			"Check the network, the host and the port in the URL, the proxy settings, the firewall, and the TLS certificates that this machine trusts. If the connection breaks only now and then, and acting on the request twice does no harm, send it again.",
		},
		{
			"无法连接到服务，或者连接中途断开。",
			"请检查网络、URL 中的主机名和端口、代理设置、防火墙，以及本机信任的 TLS 证书。如果连接只是偶尔断开，而且请求重复执行也无妨，重新发送即可。",
		},
	},
	ErrTimeout: {
		{
			"No answer came in time.",
			"Send the request again if acting on it twice does no harm. If it happens often, ask for less at a time or have the answer streamed, and allow more time with Timeout.Header and the context's deadline.",
		},
		{
			"没有在规定时间内收到响应。",
			"如果请求重复执行也无妨，请重新发送。如果经常超时，请减少单次请求的内容或改用流式响应，并通过 Timeout.Header 和 context 的截止时间留出更多时间。",
		},
	},
	ErrBadRequest: {
		{
			"The service does not accept the request as it stands.",
			"Compare its parameters, their types and the JSON around them with the API's documentation, and see what the error has in Param and Message. Unchanged, the request will fail again.",
		},
		{
			"服务不接受现在这样的请求。",
			"请对照 API 文档检查各个参数、参数类型以及 JSON 格式，并查看错误的 Param 和 Message 字段。不作修改再次发送仍会失败。",
		},
	},
	ErrContextLength: {
		{
			"The input and the output that is asked for are together longer than the model takes.",
			"Shorten the input, drop or summarize older messages, or ask for fewer output tokens. A model with a longer context may take the request as it is.",
		},
		{
			"输入与所请求的输出合计超过了模型能接受的长度。",
			"请缩短输入、删减或概括较早的消息，或者减少请求的输出 token 数。上下文更长的模型也许可以直接处理这个请求。",
		},
	},
	ErrContentFilter: {
		{
			"A content filter stopped the request or its answer.",
			"Reword or leave out what may be against the usage policy of the service. The same text will most likely be stopped again.",
		},
		{
			"请求或响应被内容过滤器拦截。",
			"请改写或删除可能违反服务使用政策的内容。同样的文本再次发送，多半还会被拦截。",
		},
	},
	ErrRequestTooLarge: {
		{
			"The request is larger than the service ever takes.",
			"Send less in one request: split it, shorten the input, or make attachments smaller. Sending the same again later does not help.",
		},
		{
			"请求的大小超过了服务所能接受的上限。",
			"请减少单次发送的内容：拆分请求、缩短输入，或者缩小附件。稍后原样重发没有用。",
		},
	},
	ErrAuthentication: {
		{
			"The credential is missing, malformed or not valid.",
			"Check that the key in the Authorization header is complete and not revoked, and that it is one of this very service. Some APIs expect it in another header, or after the word Bearer.",
		},
		{
			"凭证缺失、格式不对或无效。",
			"请检查 Authorization 请求头中的密钥是否完整、是否未被吊销，以及是否确实属于该服务。有些 API 要求把密钥放在其他请求头中，或者写在 Bearer 一词之后。",
		},
	},
	ErrPermissionDenied: {
		{
			"The credential is good, but not for what the request asks.",
			"Have the permission given to the key, its account or its project, or use a key that has it. If it should be there already, look for restrictions by region, by network address or by a firewall of the service.",
		},
		{
			"凭证有效，但无权执行所请求的操作。",
			"请为密钥、其所属账户或项目授予权限，或者换用具有该权限的密钥。如果本应已有权限，请检查是否存在地区、网络地址或服务方防火墙的限制。",
		},
	},
	ErrNotFound: {
		{
			"What the request asks for does not exist, or the credential may not see it.",
			"Check the path and the version in the URL, and the ids in the request, such as the name of a model. Check too that they belong to the account of the key.",
		},
		{
			"请求的对象不存在，或者凭证无权查看。",
			"请检查 URL 中的路径和版本，以及请求中的各个标识，例如模型名称。还要确认它们属于密钥所在的账户。",
		},
	},
	ErrConflict: {
		{
			"The request met another change to the same resource.",
			"Read the present state of the resource, and send the request again if it still applies. If it happens often, make changes to one resource one after another.",
		},
		{
			"该请求与对同一资源的另一项更改发生了冲突。",
			"请读取资源的最新状态，如果请求仍然适用，再重新发送。如果经常发生，请依次更改同一资源，不要同时进行。",
		},
	},
	ErrUnprocessable: {
		{
			"The request is well formed, but the service could not process what is in it.",
			"Correct the values that the service objects to, then send the request again. If it names none, sending it once more unchanged may work.",
		},
		{
			"请求格式正确，但服务无法处理其中的内容。",
			"请修正服务指出的值，然后重新发送请求。如果服务没有指出具体的值，原样再发送一次也可能成功。",
		},
	},
	ErrRateLimit: {
		{
			"Requests or tokens come faster than the rate limit allows.",
			"Pace your requests: set RateLimit.Limit below the limit, and share one Transport among all that use the key. Requests that are sent again too early may count against the limit too.",
		},
		{
			"请求或 token 的速率超过了速率限制。",
			"请放慢发送节奏：把 RateLimit.Limit 设在限额以下，并让使用同一密钥的所有代码共用一个 Transport。过早重发的请求也可能计入限额。",
		},
	},
	ErrQuotaExceeded: {
		{
			"The allowance of the account, the plan or the key is used up.",
			"Sending again after a short wait does not help. See the usage and the billing in the service's console, then add credit, raise the limit, or wait until the allowance is renewed.",
		},
		{
			"账户、套餐或密钥的额度已经用完。",
			"短暂等待后重发没有用。请在服务的控制台查看用量和账单，然后充值、提高限额，或者等到额度重置。",
		},
	},
	ErrInternalServer: {
		{
			"The service failed while it handled the request.",
			"Send the request again after a short pause. If it keeps failing, see the status page of the service, and give its support the RequestID of the error.",
		},
		{
			"服务在处理请求时出错。",
			"请稍等片刻后重新发送请求。如果一直失败，请查看服务的状态页面，并把错误中的 RequestID 提供给服务的技术支持。",
		},
	},
	ErrOverloaded: {
		{
			"The service has more to do at the moment than it can manage.",
			"Send the request again after a pause, and make each further pause longer. If it goes on, send less at busy times, or try another model or region.",
		},
		{
			"服务目前负载过高，处理不过来。",
			"请等待一段时间后重新发送请求，并逐次延长等待时间。如果情况持续，请在繁忙时段减少请求，或者尝试其他模型或区域。",
		},
	},
	ErrNotSent: {
		{
			"The request was refused on this side and never sent.",
			"The service saw nothing of it, so it does no harm to send it again. The error's Err says why it was refused.",
		},
		{
			"请求在本地被拒绝，从未发出。",
			"服务没有收到该请求，因此重新发送也无妨。拒绝的原因见错误的 Err 字段。",
		},
	},
	ErrCircuitOpen: {
		{
			"The request was not sent: the service failed too often of late, and the circuit to it is open.",
			"The service saw nothing of it; the failures before it tell what is wrong. A request whose context has a deadline waits for the circuit to close, one without is refused at once.",
		},
		{
			"请求没有发出：服务最近频繁失败，熔断器处于打开状态。",
			"服务没有收到该请求，请从此前的失败中查找原因。context 带有截止时间的请求会等待熔断器关闭，没有截止时间的请求则立即被拒绝。",
		},
	},
	ErrWaitTooLong: {
		{
			"The request was not sent: its turn would have come too late.",
			"The service saw nothing of it. Send fewer requests at a time, or allow a longer wait with a later deadline of the context or a larger RateLimit.MaxWait.",
		},
		{
			"请求没有发出：轮到它时已经太晚。",
			"服务没有收到该请求。请减少同时发送的请求，或者推后 context 的截止时间、调大 RateLimit.MaxWait，以允许更长的等待。",
		},
	},
}
