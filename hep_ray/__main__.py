"""`python -m hep_ray`: the same as `hep-ray`."""

from hep_ray.cli import main

if __name__ == "__main__":
    main()
