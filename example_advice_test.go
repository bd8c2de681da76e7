package sturdy_test

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/sturdyhttp/sturdy"
	"github.com/sturdyhttp/sturdy/sturdytest"
)

func ExampleError_Advice() {
	client := &http.Client{Transport: &sturdy.Transport{
		Base: sturdytest.Script(sturdytest.QuotaExceeded()), // instead of a server
	}}
	resp, err := client.Get(models)
	var e *sturdy.Error
	if errors.As(sturdy.Check(resp, err), &e) {
		for _, lang := range []string{"en", "zh-CN"} {
			advice := e.Advice(lang)
			fmt.Println(advice.Cause)
			fmt.Println(advice.Remedy)
		}
	}
	// Output:
	// The credits are used up, or the spending limit of the month is reached.
	// Buy credits or raise the limit, in the billing settings of the organization that the key belongs to. Neither slowing down nor sending again helps.
	// 余额已经用完，或者已达到当月的消费上限。
	// 请在密钥所属组织的账单设置中充值或提高上限。放慢速度或重新发送都没有用。
}
