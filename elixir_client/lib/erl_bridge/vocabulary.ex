defmodule ErlBridge.Vocabulary do
  @moduledoc """
  The atoms that a server may send besides those of the request it answers.

  They are read from `priv/vocabulary.eterm` when this module is compiled. Once it is loaded they
  all exist in the node, and `:erlang.binary_to_term(frame, [:safe])` decodes every reply without
  a peer ever being able to make an atom.

      iex> :optimized_signature in ErlBridge.Vocabulary.atoms()
      true
  """

  @path Path.expand("../../priv/vocabulary.eterm", __DIR__)
  @external_resource @path
  {:ok, [atoms]} = :file.consult(@path)
  @atoms atoms

  @doc "All of them, in the order of the file."
  @spec atoms() :: [atom]
  def atoms, do: @atoms
end
