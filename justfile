# What a contributor types; CONTRIBUTING.md says what each needs. `just` alone lists the recipes.

[private]
default:
    @just --list

# Formatting, spelling, clippy, unit tests, the engine, texts that people read: no root, no server
test:
    cargo fmt --check
    codespell
    cargo clippy --locked --all-targets --all-features -- -D warnings
    cargo test --locked --lib --test engine --test texts

# Take the texts that people read as they are now; `git diff` shows what changed
accept:
    INSTA_UPDATE=always cargo test --locked --test texts

# Everything, as root on a Debian 12 that can be thrown away
test-all *stages:
    tests/run {{stages}}

# Everything, and the tests that take nearly two hours; as root, as above
test-long *stages:
    tests/run --long {{stages}}

# What a release consists of, made and used, and in part made twice; as root, as above
test-release *stages:
    tests/run --release {{stages}}

# Format the code
fmt:
    cargo fmt

# Build the documentation of the code; a warning is an error
docs:
    RUSTDOCFLAGS=-Dwarnings cargo doc --locked --no-deps --all-features

# Build the pages of docs/ as a book; needs mdbook, which tests/run tools installs
book:
    bootstrap/book

# Write what the pages take from the program: help, keys of the JSON, the picture of the demo
pages:
    cargo build --locked
    bootstrap/pages
