#!/bin/sh
# Makes machine web-1 in Azure. Log in first (`az login`), and choose the subscription (`az account set`).
set -eu

az group show --name shop-recovery --output none 2>/dev/null ||
    az group create --name shop-recovery --location northeurope --output none
az deployment group validate --resource-group shop-recovery --name recover-web-1 \
    --template-file azure.json --parameters @azure.parameters.json
az deployment group create --resource-group shop-recovery --name recover-web-1 \
    --template-file azure.json --parameters @azure.parameters.json
