module github.com/sturdyhttp/sturdy/hack/mutate

go 1.26
