package times

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestALongWaitIsNoShortOne(t *testing.T) {
	for _, s := range []float64{math.Inf(1), math.MaxInt64, math.Exp2(63) / 1e9, math.Nextafter(math.Exp2(63)/1e9, math.Inf(1))} {
		assert.Equal(t, time.Duration(math.MaxInt64), CeilSeconds(s))
		assert.Equal(t, time.Duration(math.MaxInt64), Seconds(s))
	}
	assert.Equal(t, time.Duration(1), CeilSeconds(0))
	assert.Equal(t, time.Duration(1), CeilSeconds(1e-12))
	assert.Equal(t, time.Duration(1), Saturate(0.6))
}
