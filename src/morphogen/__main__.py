"""python -m morphogen"""
from morphogen.cli import main

main()
