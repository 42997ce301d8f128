"""The vocabulary and the tools every other wing uses: ids, errors, parameters, codec, signatures."""
