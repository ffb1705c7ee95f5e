"""Start the embedded AWS: `python -m penstock.infra.embedded`."""

from penstock.infra.embedded.server import main

if __name__ == "__main__":
    main()
