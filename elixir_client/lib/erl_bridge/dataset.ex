defmodule ErlBridge.Dataset do
  @moduledoc """
  Rows that Python keeps: sent once, and named by their content wherever rows are taken.

      {:ok, dataset} = ErlBridge.put_dataset(bridge, rows)
      {:ok, %{program: program}} = ErlBridge.optimize(bridge, signature, dataset, lm: lm)
      {:ok, %{score: score}} = ErlBridge.evaluate(bridge, program, dataset, lm: lm)

    * `:dataset_id` - the digest of the rows, the same for the same rows
    * `:rows` - how many there are
    * `:bytes` - how many bytes of external term format they have
    * `:sent_bytes` - how many bytes went to Python for it; none where it had the rows already
    * `:node` - of a cluster, the node that it was sent to, where requests that are given it go; else `nil`

  A dataset outlives the Python that got it, and the bridge: every Python of the host finds it. So
  the id may be kept, and `%{dataset: id}` is as good as the struct. For a handler of yours in
  Python, which reads it with `context.rows(value)`, `ref/1` makes that map of it.
  """

  @enforce_keys [:dataset_id, :rows, :bytes]
  defstruct [:dataset_id, :rows, :bytes, :node, sent_bytes: 0]

  @type t :: %__MODULE__{
          dataset_id: String.t(),
          rows: non_neg_integer,
          bytes: non_neg_integer,
          sent_bytes: non_neg_integer,
          node: node | nil
        }

  @doc """
  What stands for the rows in a request.

      iex> ErlBridge.Dataset.ref(%ErlBridge.Dataset{dataset_id: "5f70bf", rows: 2, bytes: 80})
      %{dataset: "5f70bf"}
  """
  @spec ref(t) :: %{dataset: String.t()}
  def ref(%__MODULE__{dataset_id: id}), do: %{dataset: id}
end
