// Package noharm holds the rule that stands above every other figure: on any
// workload the zero value of sturdy.Transport loses no more calls than a bare
// client and than a plain retry loop, and it never hangs.
//
// Each row of its table is a server with faults and callers with habits. Four
// clients meet the same of both, each in a bubble of virtual time of its own: a
// bare client, the zero values of sturdy.Transport and of sturdy.Retry, and
// go-retryablehttp with its defaults. A few rows run over real sockets. A call
// is lost if it ends with an error or with a status of 400 or more.
//
//	make noharm                                     prints the table
//	cd bench && go test ./noharm -run=Sweep -v -seeds=20   tries what nobody has chosen
//
// What a row must not ask for is what the rule excepts: requests that may have
// been acted on and are not safe to repeat, and waits of more than two minutes
// that a server asks for. Where chance decides, whether an attempt fails
// follows from the numbers of its call and of itself, so that all clients meet
// the same, and a difference within three standard deviations is none.
package noharm
