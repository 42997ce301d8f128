"""Every message that crosses a wire, one struct each."""
