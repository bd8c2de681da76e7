// Package grid tries clients on random servers with random callers, in virtual time,
// and tells how near each comes to an oracle that sees the server's state.
//
// A seed gives a [Spec]: a limit of some kind, what headers and Retry-After say of it,
// answers that fail by chance, outages, latency, and the callers. The same seed gives
// the same spec, and a run depends on nothing else but the order of what happens at the
// same instant.
//
//	make grid                                                  prints the table for 300 seeds, and those on which go-retryablehttp loses less
//	cd bench && go test ./grid -v -first=1 -seeds=100 -worst=5 -cause=slots -clients='zero value,bare'
package grid
