module minke/runtime-tools

go 1.26

require github.com/opencontainers/runtime-tools v0.9.0 // indirect
