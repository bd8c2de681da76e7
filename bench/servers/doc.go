// Package servers measures the zero value of sturdy.Transport against limits as nginx
// and haproxy enforce them: the real programs, on loopback, in front of a small backend.
//
// Each row of its table is a limit, and callers who call again as soon as they have an
// answer. How many requests the server would have taken follows from its configuration,
// see limit.allows; goodput is how much of that the calls that came home make. A call is
// lost if it ends with an error or a status of 400 or more.
//
//	make servers                                                          prints the table
//	cd bench && go test ./servers -v -only=haproxy -callers=16 -explain   tells of some rows what the layers did
//
// Without flags, as part of make test, the rows are short, and only what does not depend
// on the speed of the machine is held: that no call is lost, and that no request is sent
// within a pause that the server asked for. Where nginx or haproxy are missing the test
// is skipped, or fails if the environment has STURDY_SERVERS=required.
package servers
