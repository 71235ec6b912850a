[inputs: ["*.exs"], line_length: 130]
