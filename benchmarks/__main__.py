"""The quick ones in a row: python -m benchmarks"""

from benchmarks import digits8, startup, text

if __name__ == "__main__":
    startup.main()
    digits8.main()
    text.main()
