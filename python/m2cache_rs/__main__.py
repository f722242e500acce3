"""`python -m m2cache_rs` is `m2cache`."""

from m2cache_rs.cli.main import run

if __name__ == "__main__":
    run()
