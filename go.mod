module github.com/sturdyhttp/sturdy

go 1.26.0

require (
	github.com/dunglas/httpsfv v1.1.2
	github.com/sony/gobreaker/v2 v2.4.0
	github.com/stretchr/testify v1.12.1
	golang.org/x/time v0.16.0
)

require go.yaml.in/yaml/v3 v3.0.5 // indirect
